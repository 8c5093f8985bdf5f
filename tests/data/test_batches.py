"""Laws of the batches: which examples a step sees, and what is done to them."""

import jax
import numpy as np
import pytest

from ddpm_jax.data import batch_indices, batches, gather, random_flip, to_float


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])  # below, at and above the set
def test_every_epoch_is_a_permutation(batch_size):
    num_examples, num_epochs = 10, 23
    stream = np.concatenate(
        [
            batch_indices(7, step, batch_size, num_examples)
            for step in range(-(-num_epochs * num_examples // batch_size))
        ]
    )
    epochs = stream[: num_epochs * num_examples].reshape(num_epochs, num_examples)
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_examples))
    assert len({tuple(epoch) for epoch in epochs}) == num_epochs, "epochs repeat"


def test_the_batch_of_a_step_does_not_depend_on_history():
    in_order = [batch_indices(3, step, 8, 50) for step in range(20)]
    for step in np.random.default_rng(0).permutation(20):
        batches._permutation.cache_clear()
        np.testing.assert_array_equal(batch_indices(3, step, 8, 50), in_order[step])


def test_the_stream_does_not_depend_on_the_batch_size():
    small = np.concatenate([batch_indices(3, step, 4, 50) for step in range(30)])
    large = np.concatenate([batch_indices(3, step, 60, 50) for step in range(2)])
    np.testing.assert_array_equal(small, large)


def test_seeds_give_different_orders():
    orders = {tuple(batch_indices(seed, 0, 50, 50)) for seed in range(10)}
    assert len(orders) == 10


def test_a_caller_cannot_spoil_the_order():
    index = batch_indices(3, 0, 50, 50)
    kept = index.copy()
    index[:] = 0
    np.testing.assert_array_equal(batch_indices(3, 0, 50, 50), kept)
    assert index.dtype == np.int64


@pytest.mark.parametrize("bad", [(-1, 0, 8, 50), (0, -1, 8, 50), (0, 0, 0, 50)])
def test_bad_arguments_are_errors(bad):
    with pytest.raises(ValueError, match="must"):
        batch_indices(*bad)


def test_gather_takes_images_with_their_labels():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 3, 1), np.uint8
    )
    labels = np.arange(5, dtype=np.int32) * 10
    index = np.array([3, 0, 3])
    batch, batch_labels = jax.jit(gather)(images, labels, index)
    assert batch.shape == (3, 2, 3, 1) and batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[:, 0, 0, 0], index)
    np.testing.assert_array_equal(batch_labels, index * 10)
    assert jax.jit(gather)(images, None, index)[1] is None


def test_a_flip_mirrors_left_and_right_or_does_nothing():
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 6, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 64)
    flipped = np.asarray(jax.jit(random_flip)(keys, images))
    same = np.all(flipped == images, axis=(1, 2, 3))
    mirrored = np.all(flipped == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert 0 < mirrored.sum() < 64


def test_a_flip_belongs_to_its_key():
    """Reordering or splitting the batch moves each image's flip along with its key."""
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 6, 1), np.uint8)
    keys = jax.random.split(jax.random.key(1), 64)
    whole = np.asarray(random_flip(keys, images))
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(random_flip(keys[order], images[order]), whole[order])
    halves = [random_flip(keys[part], images[part]) for part in np.split(order, 2)]
    np.testing.assert_array_equal(np.concatenate(halves), whole[order])


def test_half_of_the_images_are_flipped():
    images = np.broadcast_to(np.array([[[0], [1]]], np.uint8), (10_000, 1, 2, 1))
    flipped = random_flip(jax.random.split(jax.random.key(2), 10_000), images)
    num_flipped = int(np.asarray(flipped)[:, 0, 0, 0].sum())
    assert abs(num_flipped - 5000) < 5 * 50  # five standard deviations


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_floats_fill_minus_one_to_one(wrap):
    levels = np.arange(256, dtype=np.uint8)
    floats = np.asarray(wrap(to_float)(levels))
    assert floats.dtype == np.float32
    assert floats[0] == -1.0 and floats[255] == 1.0, "exact at both ends"
    np.testing.assert_allclose(floats, levels / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(np.round((floats + 1) * 127.5), levels)

"""Features of many images: the same however they come, and bad images in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation.features import FeatureNetwork, collect, extract


def small(channels=3, **facts):
    """A network of a few random products."""
    kernel = np.random.default_rng(7).standard_normal((channels, 5)).astype(np.float32)

    def function(kernel, images):
        x = images.astype(jnp.float32) / 255
        hidden = jnp.tanh(jnp.einsum("nhwc,cd->nhwd", x, kernel))
        return {"means": hidden.mean((1, 2)), "corner": hidden[:, 0, 0]}

    return FeatureNetwork.from_function(
        "small", function, params=kernel, channels=channels, **facts
    )


def random_images(n, size=6, channels=3, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (n, size, size, channels))
    return noise.astype(np.uint8)


def unequal(images, parts=37):
    """As many batches, some of them empty."""
    rng = np.random.default_rng(3)
    cuts = np.sort(rng.integers(0, len(images) + 1, parts - 1))
    return np.split(images, cuts)


@pytest.mark.parametrize("devices", [1, 8])
def test_features_do_not_depend_on_batches_or_devices(devices):
    network, images = small(), random_images(211)
    expected = network.apply(network.params, jnp.asarray(images))
    own = jax.local_devices()[:devices]
    for batch_size in (16, 64, 1000):
        for given in (
            images,
            unequal(images),
            iter(unequal(images)),
            list(images[:, None]),
        ):
            found = collect(extract(network, given, batch_size=batch_size, devices=own))
            assert set(found) == {"means", "corner"}
            for tap, values in found.items():
                assert isinstance(values, np.ndarray) and values.dtype == np.float32
                np.testing.assert_allclose(values, expected[tap], rtol=1e-5, atol=1e-6)


def test_parts_come_while_images_are_read():
    """No more images are read than a batch is ahead, and no features are held."""
    read = []

    def batches():
        for i in range(20):
            read.append(i)
            yield random_images(8, seed=i)

    parts = extract(small(), batches(), batch_size=8)
    assert not read
    assert len(next(parts)["means"]) == 8
    assert len(read) <= 3


def test_only_what_is_chosen_comes_and_nothing_is_compiled_twice():
    traced = []

    def function(images):
        traced.append(images.shape)
        return {"a": images[:, 0, 0].astype(jnp.float32), "b": images[:, 1, 1]}

    network = FeatureNetwork.from_function("own", function)
    for n in (40, 45):  # the last batch of each is partial
        found = collect(extract(network, random_images(n), taps=["b"], batch_size=16))
        assert list(found) == ["b"] and found["b"].shape == (n, 3)
        np.testing.assert_array_equal(found["b"], random_images(n)[:, 1, 1])
    assert traced == [(16, 6, 6, 3)]


def test_one_array_of_features_has_a_name():
    network = FeatureNetwork.from_function("own", lambda x: x[:, 0, 0] * 1.0)
    found = collect(extract(network, random_images(3, channels=4)))
    np.testing.assert_array_equal(
        found["features"], random_images(3, channels=4)[:, 0, 0]
    )


def test_grey_images_are_replicated_where_that_is_wanted():
    images = random_images(5, channels=1)
    with pytest.raises(ValueError, match=r'small takes images of 3 .*grey="replicate"'):
        collect(extract(small(), images))
    found = collect(extract(small(), images, grey="replicate"))
    expected = collect(extract(small(), images.repeat(3, axis=-1)))
    np.testing.assert_allclose(found["means"], expected["means"], rtol=1e-6)
    grey = collect(extract(small(channels=1), images))
    assert grey["means"].shape == (5, 5)


GOOD = random_images(4)
WITH_NAN = np.full((2, 6, 6, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (GOOD.astype(np.float32), "must be uint8 of 0..255.*float32 of the shape"),
        (WITH_NAN, "must be uint8 of 0..255.*float32"),
        (GOOD.astype(np.int64), "must be uint8 of 0..255.*int64"),
        (
            GOOD[0],
            r"\(n, height, width, channels\); got uint8 of the shape \(6, 6, 3\)",
        ),
        (list(GOOD), r"got uint8 of the shape \(6, 6, 3\)"),
        ([GOOD, random_images(2, size=7)], "of one size; got 6x6x3 and then 7x7x3"),
        (random_images(2, channels=4), "small takes images of 3 channels; got 4"),
        (GOOD[:0], "need at least one image; got none"),
        ([], "need at least one image; got none"),
    ],
)
def test_bad_images_are_one_line(images, line):
    with pytest.raises(ValueError, match=line) as error:
        collect(extract(small(), images))
    assert "\n" not in str(error.value)


def test_bad_options_are_one_line_and_at_once():
    for options, line in (
        ({"grey": "yes"}, 'grey must be "replicate" or None'),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"taps": ["c"]}, "small has the features a, b; got 'c'"),
    ):
        with pytest.raises(ValueError, match=line):
            extract(small(taps=("a", "b")), GOOD, **options)
    with pytest.raises(ValueError, match="has the features means, corner; got 'x'"):
        collect(extract(small(), GOOD, taps=["x"]))


def test_features_that_are_not_a_row_an_image_are_refused():
    network = FeatureNetwork.from_function("own", lambda x: x[..., 0] * 1.0)
    with pytest.raises(ValueError, match=r"of own must be \(n, d\), a row an image"):
        collect(extract(network, GOOD))


def test_a_network_is_a_pytree_of_its_parameters():
    network = small(checksum="1234")
    doubled = jax.tree.map(lambda x: 2 * x, network)
    assert doubled.name == "small" and doubled.checksum == "1234"
    np.testing.assert_array_equal(doubled.params, 2 * network.params)

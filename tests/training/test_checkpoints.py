"""What is saved comes back, and what cannot come back is named."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.training import checkpoints
from ddpm_jax.training.state import init_state

TX = optax.adam(0.1)


def initial(width=300):
    key_params, key_run = jax.random.split(jax.random.key(0))
    params = {"w": jax.random.normal(key_params, (width, 300)), "b": jnp.ones(3)}
    return init_state(key_run, params, TX, {"count": jnp.arange(4)})


def target(width=300):
    shapes = jax.eval_shape(lambda: initial(width))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return checkpoints.abstract(shapes, jax.tree.map(lambda _: device, shapes))


def saved(directory, steps=(3,), **options):
    with checkpoints.open_checkpoints(directory, **options) as manager:
        for step in steps:
            state = initial().replace(step=jnp.array(step, jnp.int32))
            assert checkpoints.save(manager, state, {"a": [1, 2], "step": step})
    return directory


def reopened(directory):
    return checkpoints.open_checkpoints(directory, read_only=True)


def test_the_whole_state_comes_back_to_the_bit(tmp_path):
    with reopened(saved(tmp_path)) as manager:
        state = checkpoints.restore_state(manager, 3, target())
        assert checkpoints.restore_config(manager, 3) == {"a": [1, 2], "step": 3}
    expected = initial().replace(step=jnp.array(3, jnp.int32))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for ours, theirs in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
    ):
        assert ours.dtype == theirs.dtype
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = map(jax.random.key_data, (ours, theirs))
        np.testing.assert_array_equal(ours, theirs)


def test_the_average_comes_back_alone(tmp_path):
    with reopened(saved(tmp_path)) as manager:
        params = checkpoints.restore_ema(manager, 3, target().ema_params)
    np.testing.assert_array_equal(params["w"], initial().ema_params["w"])


def test_a_step_is_saved_once(tmp_path):
    with checkpoints.open_checkpoints(tmp_path) as manager:
        state = initial().replace(step=jnp.array(3, jnp.int32))
        assert checkpoints.save(manager, state, {})
        manager.wait_until_finished()
        assert not checkpoints.save(manager, state, {})


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    saved(tmp_path, steps=range(1, 8), keep_latest=2, keep_every=4)
    with reopened(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [4, 6, 7]


def test_a_stray_directory_is_not_a_checkpoint(tmp_path):
    saved(tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    with reopened(tmp_path) as manager:
        assert checkpoints.latest_step(manager) == 3


def test_no_checkpoint_yet(tmp_path):
    with checkpoints.open_checkpoints(tmp_path) as manager:
        assert checkpoints.latest_step(manager) is None


def test_looking_creates_nothing(tmp_path):
    saved(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with reopened(tmp_path) as manager:
        checkpoints.restore_config(manager, 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_truncated_checkpoint_is_one_clear_line(tmp_path):
    saved(tmp_path)
    payload = max(
        (path for path in (tmp_path / "3" / "ema").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    payload.write_bytes(payload.read_bytes()[: payload.stat().st_size // 2])
    with (
        reopened(tmp_path) as manager,
        pytest.raises(checkpoints.CheckpointError, match=r"ema of checkpoint .*3") as e,
    ):
        checkpoints.restore_state(manager, 3, target())
    assert "\n" not in str(e.value)


def test_another_models_weights_are_refused(tmp_path):
    saved(tmp_path)
    with (
        reopened(tmp_path) as manager,
        pytest.raises(checkpoints.CheckpointError, match="state of checkpoint"),
    ):
        checkpoints.restore_state(manager, 3, target(width=200))


def files(directory, step=3):
    return sorted(
        path
        for item in checkpoints.ALL
        for path in (directory / str(step) / item).rglob("*")
        if path.is_file() and path.name != "commit_success.txt"
    )


def test_every_flipped_bit_is_noticed(tmp_path):
    """Of 30 bits, wherever they lie; Orbax itself reads on."""
    saved(tmp_path)
    rng = np.random.default_rng(0)
    all_files = files(tmp_path)
    sizes = np.array([path.stat().st_size for path in all_files])
    checkpoints.check(tmp_path, 3)
    for _ in range(30):
        path = all_files[rng.choice(len(sizes), p=sizes / sizes.sum())]
        before = path.read_bytes()
        altered = bytearray(before)
        altered[rng.integers(len(before))] ^= 1 << rng.integers(8)
        path.write_bytes(altered)
        with pytest.raises(checkpoints.CheckpointError, match="checksum"):
            checkpoints.check(tmp_path, 3)
        path.write_bytes(before)
    checkpoints.check(tmp_path, 3)


def test_a_damaged_step_is_set_aside_for_the_newest_good_one(tmp_path):
    saved(tmp_path, (1, 2, 3))
    for step in (2, 3):
        files(tmp_path, step)[-1].write_bytes(b"")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "notes.txt").write_text("not a checkpoint")
    said = checkpoints.set_aside(tmp_path)
    assert len(said) == 3
    assert "does not match its checksum; going on from step 1" in said[0]
    assert "7 set aside as 7.damaged: no complete checkpoint" in said[-1]
    assert (tmp_path / "7.damaged" / "notes.txt").exists()
    assert checkpoints.complete_steps(tmp_path) == [1]
    assert checkpoints.set_aside(tmp_path) == []
    saved(tmp_path, (3, 7))  # their places are free again
    assert checkpoints.complete_steps(tmp_path) == [7, 3, 1]


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    saved(tmp_path, (2, 3))
    for step in (2, 3):
        files(tmp_path, step)[0].unlink()
    with pytest.raises(
        checkpoints.CheckpointError, match=r"no good checkpoint.*step 3"
    ):
        checkpoints.set_aside(tmp_path)
    assert checkpoints.complete_steps(tmp_path) == [3, 2]


def test_half_a_checkpoint_directory_is_noticed(tmp_path):
    saved(tmp_path)
    shutil.rmtree(tmp_path / "3" / "state")
    with pytest.raises(checkpoints.CheckpointError, match=r"state.* is missing"):
        checkpoints.check(tmp_path, 3)
    checkpoints.check(tmp_path, 3, checkpoints.MODEL)  # a sample needs no more


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path):
    losses = {1: 0.5, 2: float("nan"), 3: 0.7, 4: 0.6, 5: 0.9}
    with checkpoints.open_checkpoints(tmp_path, keep_latest=1, keep_best=2) as manager:
        for step, loss in losses.items():
            state = initial().replace(step=jnp.array(step, jnp.int32))
            checkpoints.save(manager, state, {}, loss=loss)
            manager.wait_until_finished()
    assert checkpoints.complete_steps(tmp_path) == [5, 4, 1]


def test_the_best_stays_the_best_when_a_run_is_resumed(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.7, 4: 0.6, 5: 0.9, 6: 0.8}
    for steps in ((1, 2, 3), (4, 5), (6,)):
        with checkpoints.open_checkpoints(
            tmp_path, keep_latest=1, keep_best=1
        ) as manager:
            for step in steps:
                state = initial().replace(step=jnp.array(step, jnp.int32))
                checkpoints.save(manager, state, {}, loss=losses[step])
                manager.wait_until_finished()
    assert checkpoints.complete_steps(tmp_path) == [6, 2]

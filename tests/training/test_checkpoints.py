"""What is saved comes back, and what cannot come back is named."""

import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.training import checkpoints
from ddpm_jax.training.checksums import METADATA, NAME
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the same steps, to be copied."""
    return [saved(tmp_path_factory.mktemp("run"), (1, 2, 3)) for _ in range(2)]


@pytest.fixture
def pair(runs, tmp_path):
    """Copies of them, for a test to harm."""
    for run, name in zip(runs, "ab", strict=True):
        shutil.copytree(run, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def exchange(a, b):
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


# What is done to run a (b is another of the same steps); what then is good, and bad.
HARMS = {
    "renamed": (lambda a, b: (a / "3").rename(a / "7"), 2, [7]),
    "copied": (lambda a, b: shutil.copytree(a / "2", a / "7"), 3, [7]),
    "linked": (lambda a, b: (a / "7").symlink_to(a / "2"), 3, [7]),
    "exchanged": (lambda a, b: exchange(a / "3", a / "1"), 2, [3, 1]),
    "renamed to older": (lambda a, b: (a / "3").rename(a / "0"), 2, [0]),
    "another config": (
        lambda a, b: exchange(a / "3/config", a / "2/config"),
        1,
        [3, 2],
    ),
    "another state": (lambda a, b: exchange(a / "3/state", a / "2/state"), 1, [3, 2]),
    "other sums": (lambda a, b: exchange(a / "3" / NAME, a / "2" / NAME), 1, [3, 2]),
    "another run": (lambda a, b: exchange(a / "3", b / "3"), 2, [3]),
    "a lost item": (lambda a, b: shutil.rmtree(a / "3/ema"), 2, [3]),
    "lost metadata": (lambda a, b: (a / "3" / METADATA).unlink(), 2, [3]),
    "emptied": (lambda a, b: [shutil.rmtree(a / "3"), (a / "3").mkdir()], 2, [3]),
    "a file": (lambda a, b: [shutil.rmtree(a / "3"), (a / "3").touch()], 2, [3]),
}


@pytest.mark.parametrize("harm", HARMS)
def test_nothing_stands_for_another_in_silence(pair, harm):
    a, b = pair
    function, good, bad = HARMS[harm]
    function(a, b)
    found = checkpoints.find_good(a)
    assert found[0] == good and list(found[1]) == bad
    said = checkpoints.set_aside(a)
    for step in bad:
        assert any(f"/{step} set aside as {step}.damaged: " in line for line in said)
        assert (a / f"{step}.damaged").exists()
    assert checkpoints.complete_steps(a)[0] == good


def test_an_older_step_that_is_another_is_set_aside_before_it_is_needed(pair):
    a, _ = pair
    (a / "1").rename(a / "0")
    said = checkpoints.set_aside(a)
    assert len(said) == 1 and "0 set aside" in said[0]
    assert said[0].endswith("it is the checkpoint of step 1")
    assert checkpoints.complete_steps(a) == [3, 2]


def test_a_step_may_lie_elsewhere_and_stays_there(pair):
    a, b = pair
    (a / "2").rename(b / "moved")
    (a / "2").symlink_to(b / "moved")
    assert checkpoints.set_aside(a) == []
    saved(a, (4, 5), keep_latest=1)
    assert checkpoints.complete_steps(a) == [5, 2]
    checkpoints.check(a, 2)


@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_a_lost_loss_stops_nothing(pair, kind):
    a, _ = pair
    for step in (1, 3):
        path = a / str(step) / "metrics" / "metrics"
        if kind == "delete":
            path.unlink()
        else:
            content = path.read_bytes()
            path.write_bytes(b"[" + content[1:] if kind == "flip" else content[:3])
    with checkpoints.open_checkpoints(a, keep_best=1) as manager:  # nobody looked
        assert checkpoints.latest_step(manager) == 3
    with reopened(a) as manager:
        assert checkpoints.restore_config(manager, 3)["step"] == 3
    older, newest = sorted(checkpoints.set_aside(a), reverse=False)
    assert "1 set aside as 1.damaged: metrics/metrics " in older
    assert "3 is not ranked: metrics/metrics " in newest
    assert checkpoints.complete_steps(a) == [3, 2]


def test_what_earlier_versions_saved_is_read_and_guarded_as_it_was(pair):
    a, _ = pair
    for step in (1, 2, 3):
        path = a / str(step) / "sha256.json"
        sums = json.loads(path.read_text())
        items = {name: x for name, x in sums.items() if "/" in name}
        path.write_text(json.dumps(items, indent=1))
    (a / "run.json").unlink()
    assert checkpoints.find_good(a) == (3, {}) and checkpoints.set_aside(a) == []
    (a / "3" / "_CHECKPOINT_METADATA").write_text("[]")
    (a / "2" / "config" / "metadata").write_text("{}")
    assert checkpoints.find_good(a) == (
        1,
        {
            3: "_CHECKPOINT_METADATA cannot be read",
            2: "config/metadata does not match its checksum",
        },
    )


def test_the_sums_guard_themselves(pair):
    a, _ = pair
    path = a / "3" / "sha256.json"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 97):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        if json_or_none(altered) != json.loads(content):
            with pytest.raises(checkpoints.CheckpointError, match=NAME):
                checkpoints.check(a, 3)


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_orbaxs_late_reports_are_no_news(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    for _ in range(2):  # the second look adds nothing
        reopened(tmp_path).close()
    for text in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(report.exc_value) for report in heard] == ["another"]


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

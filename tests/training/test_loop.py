"""A run from outside: what it leaves, how it ends, that killing it changes nothing."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from toy import SMALL, SMOKE, Toy, small_config, toy_config

from ddpm_jax import build, loading
from ddpm_jax.config import ClipConfig, to_dict
from ddpm_jax.ownership import claimed
from ddpm_jax.training import checkpoints, checksums, loop, memory
from ddpm_jax.training.setup import cautions, make_update

ROOT = pathlib.Path(__file__).parent.parent.parent


def config(steps=4, **train):
    """A small run that saves every other update and logs each."""
    return small_config(steps, **{"checkpoint_every": 2, "log_every": 1, **train})


def toy(steps=4, **train):
    """The same of a toy, for what does not ask which network there is."""
    whole = toy_config(size=8, classes=10)
    train = {"checkpoint_every": 2, "log_every": 1, "num_steps": steps, **train}
    return dataclasses.replace(
        whole,
        train=dataclasses.replace(whole.train, **train),
        sample=dataclasses.replace(whole.sample, every=10_000),
    )


def run(config, workdir):
    return loop.run(config, workdir, network=NETWORK)


def load(workdir, **how):
    return loading.load(workdir, network=NETWORK, **how)


NETWORK = Toy(classes=10)


def saved_parts(workdir, step):
    """The state and the average of a checkpoint, as stored."""
    with checkpoints.open_checkpoints(workdir / "checkpoints", read_only=True) as m:
        args = checkpoints.ocp.args
        both = args.Composite(state=args.StandardRestore(), ema=args.StandardRestore())
        items = m.restore(step, args=both)
    return items["state"], items["ema"]


def saved_leaves(workdir, step):
    """Every array of a checkpoint, as stored."""
    leaves = jax.tree.leaves(saved_parts(workdir, step))
    typed = jax.dtypes.prng_key
    return [
        np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, typed) else x
        )
        for x in leaves
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    outcome = loop.run(config(), workdir)
    assert outcome == (4, None)
    return workdir


def test_a_run_leaves_its_config_metrics_pictures_and_checkpoints(finished):
    written = json.loads((finished / "config.json").read_text())
    assert written["train"]["num_steps"] == 4
    lines = [
        json.loads(x) for x in (finished / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert Image.open(finished / "samples" / "step_0000004.png").info["step"] == "4"
    with checkpoints.open_checkpoints(finished / "checkpoints", read_only=True) as m:
        assert sorted(m.all_steps()) == [2, 4]


def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(finished, tmp_path):
    loop.run(config(steps=2), tmp_path)
    loop.run(config(), tmp_path)
    for ours, theirs in zip(
        saved_leaves(tmp_path, 4), saved_leaves(finished, 4), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    steps = [
        json.loads(x)["step"]
        for x in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert steps == [1, 2, 3, 4]


def test_sampling_needs_no_optimiser_and_ignores_the_batch(finished):
    model = loading.load(finished)
    assert model.step == 4
    key = jax.random.key(3)
    whole = model.sample(key, 4, label=1, steps=5)
    parts = [
        list(model.sample_iter(key, 2, first=f, label=1, steps=5))[-1][1]
        for f in (0, 2)
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-5)
    assert np.ptp(np.asarray(whole), axis=0).max() > 0.1  # not one image four times


def test_a_workdir_with_another_model_is_refused_and_left_alone(finished):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    other = config()
    other = dataclasses.replace(
        other, network=dataclasses.replace(other.network, channels=16)
    )
    with pytest.raises(ValueError, match=r"network\.channels: 16, not 8"):
        loop.run(other, finished)
    changed = [
        p
        for p in before
        if p.read_bytes() != before[p] and "tensorboard" not in p.parts
    ]
    assert not changed


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    tmp_path, monkeypatch
):
    made = build.make_loss

    def breaks(diffusion):
        whole = made(diffusion)

        def loss(schedule, x0, xt, t, noise, output):
            # The network's output is exactly 0 nowhere after the weights ran away.
            return whole(schedule, x0, xt, t, noise, output) + 0 * output.mean() ** 4

        return loss

    monkeypatch.setattr(build, "make_loss", breaks)
    runaway = toy(steps=8, checkpoint_every=1)
    runaway = dataclasses.replace(
        runaway,
        optim=dataclasses.replace(
            runaway.optim, learning_rate=1e18, warmup_steps=0, clip_norm=None
        ),
    )
    with pytest.raises(FloatingPointError, match=r"the loss of step \d is (nan|inf)"):
        run(runaway, tmp_path)
    with checkpoints.open_checkpoints(tmp_path / "checkpoints", read_only=True) as m:
        good = checkpoints.latest_step(m)
    assert good is not None
    assert all(np.isfinite(x).all() for x in saved_leaves(tmp_path, good))


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(tmp_path, monkeypatch):
    made = build.make_loss

    def breaks(diffusion):
        whole = made(diffusion)

        def loss(schedule, x0, xt, t, noise, output):
            # The root of 0 is 0, and its slope is not a number times 0.
            return whole(schedule, x0, xt, t, noise, output) + (0 * output.sum()) ** 0.5

        return loss

    monkeypatch.setattr(build, "make_loss", breaks)
    with pytest.raises(FloatingPointError, match=r"gradient's norm of step 1 is nan"):
        run(toy(steps=1), tmp_path)
    assert checkpoints.complete_steps(tmp_path / "checkpoints") == []


def test_how_a_network_is_computed_may_change_in_a_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    more = config(steps=5)
    more = dataclasses.replace(
        more,
        network=dataclasses.replace(more.network, remat=True, dropout=0.2),
        diffusion=dataclasses.replace(
            more.diffusion,
            clip=ClipConfig(kind="dynamic", percentile=0.9),
            rederive=False,
        ),
    )
    assert loop.run(more, tmp_path / "run").step == 5
    unclipped = dataclasses.replace(more.optim, clip_norm=None)
    with pytest.raises(ValueError, match=r"optim\.clip_norm is None, not a bound"):
        loop.run(dataclasses.replace(more, optim=unclipped), tmp_path / "run")


def test_updates_that_are_left_out_for_ever_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SKIPS_IN_A_ROW", 3)
    made = build.make_loss

    def breaks(diffusion):
        whole = made(diffusion)
        return lambda *arguments: whole(*arguments) * np.inf

    monkeypatch.setattr(build, "make_loss", breaks)
    with pytest.raises(FloatingPointError, match=r"loss of step 3 is inf: .* step 2"):
        run(toy(steps=8, on_nonfinite="skip"), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [None, None]
    assert "NaN" not in "".join(lines)


def test_a_complete_run_says_so_and_is_left_alone(finished, capsys):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    for steps in (4, 3):
        assert loop.run(config(steps), finished) == (4, None)
        said = capsys.readouterr().out
        assert f"the run is complete: step 4 of train.num_steps={steps};" in said
    before.pop(finished / ".owner", None)
    assert all(p.read_bytes() == content for p, content in before.items())


def forget_warmup(workdir, step):
    """Makes a checkpoint's config one from before there was a warm-up."""
    path = workdir / "checkpoints" / str(step) / "config" / "metadata"
    values = json.loads(path.read_text())
    del values["optim"]["ema_warmup"]
    path.write_text(json.dumps(values))
    directory = workdir / "checkpoints"
    checksums.write(directory / str(step), step, checksums.run_of(directory))


def test_an_old_run_goes_on_without_the_warm_up_that_it_never_had(tmp_path, capsys):
    optim = dataclasses.replace(toy().optim, ema_warmup=False)
    plain, old = tmp_path / "plain", tmp_path / "old"
    run(dataclasses.replace(toy(), optim=optim), plain)
    run(dataclasses.replace(toy(steps=2), optim=optim), old)
    forget_warmup(old, 2)
    (old / "config.json").unlink()
    run(toy(steps=3), old)  # today's default has one
    run(toy(), old)
    assert capsys.readouterr().out.count("optim.ema_warmup stays False") == 2
    assert json.loads((old / "config.json").read_text())["optim"]["ema_warmup"] is False
    for ours, theirs in zip(saved_leaves(old, 4), saved_leaves(plain, 4), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    run(toy(), tmp_path / "warm")
    same = zip(saved_leaves(tmp_path / "warm", 4), saved_leaves(old, 4), strict=True)
    assert not all(np.array_equal(a, b) for a, b in same)


@pytest.mark.parametrize("edited", ["a number", "not JSON", "[1]"])
def test_a_config_json_that_was_edited_is_not_lost_in_silence(tmp_path, capsys, edited):
    run(toy(steps=1), tmp_path)
    path = tmp_path / "config.json"
    if edited == "a number":
        edited = path.read_text().replace('"num_steps": 1,', '"num_steps": 77,')
    path.write_text(edited)
    capsys.readouterr()
    run(toy(steps=2), tmp_path)
    (said,) = [x for x in capsys.readouterr().out.split("\n") if "written anew" in x]
    wanted = "train.num_steps: 2, not 77" if "77" in edited else "could not be read"
    assert wanted in said
    assert (tmp_path / "config.json.old").read_text() == edited
    assert json.loads(path.read_text())["train"]["num_steps"] == 2


def test_raw_weights_are_those_of_the_last_update(finished):
    state, ema = saved_parts(finished, 4)
    raw, averaged = (loading.load(finished, weights=x).params for x in ("raw", "ema"))
    jax.tree.map(np.testing.assert_array_equal, raw, state["params"])
    jax.tree.map(np.testing.assert_array_equal, averaged, ema)
    assert not np.array_equal(jax.tree.leaves(raw)[0], jax.tree.leaves(averaged)[0])
    with pytest.raises(ValueError, match="weights must be 'ema' or 'raw'; got 'both'"):
        loading.load(finished, weights="both")


def test_raw_weights_that_are_damaged_are_not_read(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    damaged = next((tmp_path / "run" / "checkpoints" / "4" / "state").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step 2 is read in its place"):
        assert loading.load(tmp_path / "run", weights="raw").step == 2
    assert loading.load(tmp_path / "run").step == 4


def test_a_network_beyond_the_memory_is_refused_before_it_is_built(
    tmp_path, monkeypatch
):
    limits = {"a page": 4096, "all": 2**50}
    monkeypatch.setattr(memory, "_limits", lambda device: limits)
    with pytest.raises(ValueError, match=r"parameters, .*a page is 0\.0 GB"):
        loop.run(config(), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_state_takes_what_its_arrays_take():
    _, initial_state = make_update(config())
    state = jax.eval_shape(initial_state)
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(state.params))
    arrays = jax.tree.leaves(initial_state())
    assert memory._size(state) == sum(x.nbytes for x in arrays) >= 16 * count
    assert all(limit > 0 for limit in memory._limits(jax.devices()[0]).values())


@pytest.mark.parametrize(
    ("optim", "steps", "line"),
    [
        ({"warmup_steps": 10}, 10, "optim.warmup_steps=10 does not end within"),
        ({"decay_steps": 101}, 100, "optim.decay_steps=101 does not end within"),
        ({"decay_steps": 80}, 100, "the last 20 of train.num_steps=100 updates change"),
        ({"ema_decay": 0.99, "ema_warmup": False}, 100, "leaves 37% of the first"),
        ({"decay_steps": 100}, 100, None),
        ({"ema_decay": 0.9999}, 10, None),
        ({"ema_decay": 0.9, "ema_warmup": False}, 100, None),
    ],
)
def test_an_optimiser_that_does_not_fit_the_run_is_said(optim, steps, line):
    whole = config(steps)
    optim = dataclasses.replace(whole.optim, **{"warmup_steps": 5, **optim})
    said = cautions(dataclasses.replace(whole, optim=optim))
    assert len(said) == (line is not None)
    assert line is None or line in said[0]


def test_a_run_has_its_workdir_to_itself(finished, tmp_path):
    with (
        claimed(finished),
        pytest.raises(OSError, match=rf"in use by process {os.getpid()} on"),
    ):
        loop.run(config(steps=6), finished)
    with claimed(finished):  # it was let go
        pass
    with pytest.raises(RuntimeError), claimed(tmp_path):
        raise RuntimeError
    with claimed(tmp_path):
        pass


def test_another_seed_is_another_run(finished):
    with pytest.raises(ValueError, match=r"train\.seed: 7, not 0"):
        loop.run(config(steps=6, seed=7), finished)


def test_a_checkpoint_before_the_first_update_is_one(tmp_path):
    _, initial_state = make_update(config())
    with checkpoints.open_checkpoints(tmp_path / "checkpoints") as manager:
        checkpoints.save(manager, initial_state(), to_dict(config()))
    other = config()
    other = dataclasses.replace(
        other, network=dataclasses.replace(other.network, channels=16)
    )
    with pytest.raises(ValueError, match=r"network\.channels: 16, not 8"):
        loop.run(other, tmp_path)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        loop.run(config(), tmp_path / "file" / "run")


@pytest.mark.processes
def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    """A limit on the size of a file stands for the disk: writing beyond it fails."""
    workdir = tmp_path / "run"
    loop.run(config(steps=2), workdir)
    more = ["--train.num-steps=6", "--train.checkpoint-every=2", *SMALL]
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.argv = ['train.py', *sys.argv[1:]]\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    arguments = ["--config", str(SMOKE), "--workdir", str(workdir), *more]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1 and "File too large" in lines[0], done.stderr
    assert checkpoints.complete_steps(workdir / "checkpoints") == [2]
    checkpoints.check(workdir / "checkpoints", 2)
    loop.run(config(steps=4), workdir)
    assert checkpoints.complete_steps(workdir / "checkpoints") == [4, 2]


def test_a_damaged_checkpoint_is_said_and_the_run_goes_on(tmp_path, capsys):
    run(toy(), tmp_path)
    whole = saved_leaves(tmp_path, 4)
    damaged = next((tmp_path / "checkpoints" / "4" / "state").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step 2 is read in its place"):
        (tmp_path / "checkpoints" / "4" / "ema" / "_METADATA").write_text("{}")
        assert load(tmp_path).step == 2
    capsys.readouterr()
    run(toy(), tmp_path)
    said = capsys.readouterr().out
    assert "going on from step 2" in said and "resumed from step 2" in said
    for ours, theirs in zip(saved_leaves(tmp_path, 4), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_half_a_line_of_metrics_is_no_obstacle(tmp_path):
    run(toy(steps=2), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run(toy(), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def start(workdir, *arguments):
    """train.py in a process of its own, as a person starts it."""
    command = [sys.executable, "train.py", "--config", str(SMOKE), *SMALL]
    command += ["--workdir", str(workdir), "--train.log-every", "1"]
    return subprocess.Popen(
        [*command, "--sample.every", "10000", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process, workdir, step):
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise TimeoutError(f"no step {step} in {metrics}")


@pytest.mark.processes
def test_a_killed_run_ends_as_the_uninterrupted_run(tmp_path):
    """kill -9 at a random step, SIGTERM at another, then to the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--train.num-steps", "300", "--train.checkpoint-every", "20")
    process = start(whole, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output

    step = np.random.default_rng().integers(5, 120)
    process = start(killed, *arguments)
    wait_for_step(process, killed, step)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    process = start(killed, *arguments)
    wait_for_step(process, killed, step + 30)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "SIGTERM: saved step" in output

    process = start(killed, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "resumed from step" in output
    for ours, theirs in zip(
        saved_leaves(killed, 300), saved_leaves(whole, 300), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)

"""Real processes on this machine: the same run on every layout, saved by all."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from toy import SMALL

from ddpm_jax.data import load_digits
from ddpm_jax.images import save_png
from ddpm_jax.processes import Distributed, devices_of_the_node, in_cluster
from ddpm_jax.processes import start as join
from ddpm_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 20


def start(arguments, processes, devices=1, script="train.py", each=None):
    """Starts one run on so many processes, each with arguments of its own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    running = []
    for i in range(processes):
        meeting = [
            f"--distributed.coordinator=127.0.0.1:{port}",
            f"--distributed.num-processes={processes}",
            f"--distributed.process-id={i}",
        ]
        own = [*arguments, *(each[i] if each else [])]
        command = [sys.executable, *script.split(), *map(str, own)]
        running.append(
            subprocess.Popen(
                command + (meeting if processes > 1 else []),
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


def finish(running, code=0):
    """The outputs of processes that are to end by themselves with this exit code."""
    try:
        outputs = [x.communicate(timeout=300)[0] for x in running]
    finally:
        for x in running:
            x.kill()
    for x, output in zip(running, outputs, strict=True):
        assert x.returncode == code, output[-3000:]
    return outputs


def launch(*run, **options):
    return finish(start(*run, **options))


def train(workdir, processes, devices=1, **fields):
    fields = {"log-every": 1, "num-steps": STEPS, "checkpoint-every": 5, **fields}
    arguments = ["--config", "configs/smoke.py", "--workdir", workdir]
    arguments += [f"--train.{name}={value}" for name, value in fields.items()]
    arguments += ["--sample.steps=2", "--sample.every=1000", *SMALL]
    return launch(arguments, processes, devices)


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return np.array([[row["loss"], row["grad_norm"]] for row in rows])


def average(workdir, step=STEPS):
    with checkpoints.open_checkpoints(workdir / "checkpoints", read_only=True) as m:
        args = checkpoints.ocp.args
        items = m.restore(step, args=args.Composite(ema=args.StandardRestore()))
    return items["ema"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("single")
    train(workdir, 1)
    return workdir


@pytest.mark.processes
def test_a_workdir_that_is_not_shared_is_refused_by_all(tmp_path):
    arguments = ["--config", "configs/smoke.py", *SMALL, "--workdir"]
    each = [[tmp_path / "here"], [tmp_path / "there"]]
    for output in finish(start(arguments, 2, each=each), code=1):
        assert "must be one folder for all processes; process 1 does not" in output


LAYOUTS = [(2, 1, {"runner": "pmap"}), (2, 2, {"fsdp": 2})]
MORE = [(2, 1, {}), (1, 2, {}), (2, 2, {"runner": "pmap"}), (4, 1, {}), (4, 2, {})]
MORE += [(4, 1, {"runner": "pmap"})]


@pytest.mark.parametrize(
    ("processes", "devices", "fields"),
    [
        *(pytest.param(*layout, marks=pytest.mark.processes) for layout in LAYOUTS),
        *(pytest.param(*layout, marks=pytest.mark.slow) for layout in MORE),
    ],
)
def test_many_processes_train_as_one(single, tmp_path, processes, devices, fields):
    train(tmp_path, processes, devices, **fields)
    np.testing.assert_allclose(metrics(tmp_path), metrics(single), rtol=2e-4)


@pytest.mark.slow
def test_processes_measure_as_one_and_rank_alike(tmp_path):
    """Their shares of images and samples are uneven, and one has fewer batches."""
    found = {}
    for processes, fields in ((1, {}), (2, {"fsdp": 2})):
        workdir = tmp_path / str(processes)
        arguments = ["--config", "configs/smoke.py", "--workdir", workdir]
        more = {"num-steps": 6, "log-every": 1, "checkpoint-every": 2, **fields}
        more |= {"keep-best": 1, "keep-latest": 1}
        arguments += [f"--train.{name}={value}" for name, value in more.items()]
        told = {"every": 3, "images": 7, "levels": 3, "samples": 20, "steps": 2}
        arguments += [f"--evaluation.{name}={value}" for name, value in told.items()]
        outputs = launch([*arguments, "--sample.steps=2"], processes)
        assert "train.keep_best ranks by digits-FD" in outputs[0]
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if "digits-FD" in row]
        assert [row["step"] for row in rows] == [2, 3, 4, 6]
        found[processes] = rows
        ranked = {row["step"]: row["digits-FD"] for row in rows if row["step"] != 3}
        best = min(ranked, key=ranked.__getitem__)
        assert checkpoints.complete_steps(workdir / "checkpoints") == sorted(
            {best, 6}, reverse=True
        )
    for ours, theirs in zip(found[2], found[1], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.parametrize(
    "layouts",
    [
        pytest.param([(10, 2, 1), (20, 1, 2)], marks=pytest.mark.processes),
        pytest.param(
            [(5, 2, 1), (10, 1, 2), (15, 4, 1), (20, 1, 1)], marks=pytest.mark.slow
        ),
    ],
    ids=["2x1 1x2", "2x1 1x2 4x1 1x1"],
)
def test_a_run_may_move_between_layouts(single, tmp_path, layouts):
    for end, processes, devices in layouts:
        train(tmp_path, processes, devices, **{"num-steps": end})
    np.testing.assert_allclose(metrics(tmp_path), metrics(single), rtol=2e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        average(tmp_path),
        average(single),
    )


@pytest.mark.processes
def test_processes_share_the_samples_and_the_bound(single, tmp_path):
    drawn = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        arguments = ["--workdir", single, "--out", out, "--num", 22, "--npz"]
        arguments += ["--batch-size", 4, "--steps", 5, "--label", 3]
        launch(arguments, processes, script="sample.py")
        drawn[processes] = np.load(out / "samples.npz")["images"]
        assert not (out / "unfinished").exists()
    np.testing.assert_array_equal(drawn[1], drawn[2])
    assert len(np.unique(drawn[1].reshape(22, -1), axis=0)) == 22

    bits = {}
    for processes in (1, 2):
        arguments = ["--workdir", single, "--num", 22, "--batch-size", 4]
        launch(arguments, processes, script="-m ddpm_jax.evaluation.likelihood")
        bits[processes] = dict(np.load(single / "likelihood" / "terms.npz"))
    for name in bits[1]:
        np.testing.assert_array_equal(bits[1][name], bits[2][name])

    found = {}
    for processes in (1, 2):
        arguments = ["--workdir", single, "--num", 22, "--batch-size", 4, "--seeds", 2]
        arguments += ["--steps", 5, "--metrics", "fd", "recall", "memorisation"]
        launch(arguments, processes, script="-m ddpm_jax.evaluation")
        (path,) = (single / "evaluation").glob("*.json")
        found[processes] = json.loads(path.read_text())
        path.unlink()
    assert found[2]["processes"] == 2
    for name, row in found[1]["metrics"].items():
        np.testing.assert_allclose(found[2]["metrics"][name]["values"], row["values"])


@pytest.mark.processes
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    arguments = ["--config", "configs/smoke.py", "--workdir", tmp_path, *SMALL]
    arguments += ["--train.num-steps=100000", "--train.log-every=1"]
    arguments += ["--train.checkpoint-every=100000", "--sample.every=100000"]
    running = start(arguments, 2)
    deadline = time.monotonic() + 200
    path = tmp_path / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < 3:
        assert time.monotonic() < deadline and running[0].poll() is None
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    output = finish(running, 128 + signal.SIGTERM)[0]
    done = len(path.read_text().splitlines())
    assert f"SIGTERM: saved step {done}" in output
    assert checkpoints.complete_steps(tmp_path / "checkpoints") == [done]
    checkpoints.check(tmp_path / "checkpoints", done)


def test_where_processes_meet_is_said_whole():
    with pytest.raises(ValueError, match="go together"):
        Distributed(coordinator="localhost:1", process_id=0)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1; got 2"):
        Distributed(coordinator="localhost:1", num_processes=2, process_id=2)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # sbatch without srun
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_a_cluster_is_known_by_its_environment(environment, expected):
    assert in_cluster(environment) is expected


@pytest.mark.slow
def test_streamed_batches_do_not_depend_on_the_processes(tmp_path):
    """Also with worker processes, and across a resume."""
    images = load_digits("train").images[:60]
    for i, image in enumerate(images):
        folder = tmp_path / "images" / str(i % 3)
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{i}.png", image, enlarge=1)
    streamed = {
        "config": "configs/smoke.py",
        "data.source": "folder",
        "data.path": tmp_path / "images",
        "data.num-classes": 3,
        "train.num-steps": 10,
        "train.log-every": 1,
        "train.checkpoint-every": 5,
        "sample.every": 1000,
        "sample.steps": 2,
    }

    def run(name, processes, **fields):
        chosen = {**streamed, "workdir": tmp_path / name, **fields}
        arguments = [f"--{key}={value}" for key, value in chosen.items()]
        launch([*arguments, "--data.no-resident"], processes)
        return metrics(tmp_path / name)

    alone = run("alone", 1)
    np.testing.assert_allclose(run("two", 2), alone, rtol=2e-4)
    run("resumed", 2, **{"train.num-steps": 5})
    again = run("resumed", 1, **{"data.workers": 2})
    np.testing.assert_allclose(again, alone, rtol=2e-4)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, None),
    ],
)
def test_a_task_that_is_alone_on_its_node_has_all_its_gpus(environment, expected):
    assert devices_of_the_node(environment) == expected


def test_open_mpi_must_be_told_where_the_processes_meet(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"--distributed\.coordinator must name"):
        join(Distributed())

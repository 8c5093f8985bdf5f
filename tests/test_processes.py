"""Who starts a process says which devices are its own; how it ends, the others see."""

import importlib.util
import itertools
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ddpm_jax import command, processes
from ddpm_jax.processes import Distributed, devices_of_the_node, in_cluster

DIGITS = pathlib.Path(__file__).parent.parent / "configs" / "digits.py"
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
LAUNCHERS = ("OMPI_", "SLURM_", "TPU_", "MEGASCALE_", "JAX_LOCAL", "CUDA_VISIBLE")


def by_srun(rank, tasks, **more):
    return {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LOCALID": str(rank),
        **more,
    }


def by_mpirun(rank, count, **more):
    return {
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(count),
        **more,
    }


ALL = list(range(8))
ONE = {"CUDA_VISIBLE_DEVICES": "0"}
GPUS = {"SLURM_GPUS_ON_NODE": "8"}
FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        # Open MPI: a rank per node, a rank per GPU, within SLURM also.
        (by_mpirun(0, 1, **EIGHT), ALL),
        (by_mpirun(3, 8, **EIGHT), [3]),
        (by_mpirun(1, 2, **EIGHT), [4, 5, 6, 7]),
        (by_mpirun(3, 8, **EIGHT, **by_srun(0, "1(x4)")), [3]),
        (by_mpirun(3, 8, **GPUS, **by_srun(0, "1(x4)")), [3]),
        (by_mpirun(1, 2, **FOUR, **GPUS), [2, 3]),
        (by_mpirun(1, 2, **ONE), [0]),  # a script gives each rank its own
        # srun.
        (by_srun(0, "1(x4)", **GPUS), ALL),
        (by_srun(0, "1", **EIGHT), ALL),  # not all clusters say SLURM_GPUS_ON_NODE
        (by_srun(1, "2(x4)", **EIGHT, **GPUS), [4, 5, 6, 7]),
        (by_srun(3, "8(x4)", **EIGHT, **GPUS), [3]),
        (by_srun(1, "4,2(x2)", SLURM_NODEID="2", **EIGHT), [4, 5, 6, 7]),
        (by_srun(1, "4,2(x2)", SLURM_NODEID="0", **EIGHT), [2, 3]),
        (by_srun(1, "4,2(x2)", **EIGHT), None),
        # What SLURM binds to a task is all that the task sees, from 0.
        (by_srun(1, "2", SLURM_GPUS_PER_TASK="1", **ONE), [0]),
        (by_srun(1, "2", SLURM_GPUS_PER_TASK="a100:4", **FOUR), [0, 1, 2, 3]),
        (by_srun(1, "2", **FOUR, **GPUS), [0, 1, 2, 3]),  # --gpu-bind
        (by_srun(1, "2", SLURM_GPUS_PER_TASK="4", **EIGHT, **GPUS), [4, 5, 6, 7]),
        # Nothing is known, or there are no GPUs, or they are not wanted.
        ({}, None),
        (EIGHT, None),
        (by_mpirun(0, 1), None),
        (by_srun(1, "2"), None),
        (by_srun(0, "2", CUDA_VISIBLE_DEVICES=""), None),
        (by_srun(0, "2", CUDA_VISIBLE_DEVICES="NoDevFiles", **GPUS), None),
        (by_srun(0, "2", CUDA_VISIBLE_DEVICES="-1", **GPUS), None),
        (by_srun(0, "3", JAX_PLATFORMS="cpu", **EIGHT), None),
        (by_srun(0, "3", JAX_LOCAL_DEVICE_IDS="0,1", **EIGHT), None),
        # Names that are not numbers.
        (by_mpirun(1, 2, CUDA_VISIBLE_DEVICES="GPU-8d,GPU-e1"), [1]),
    ],
)
def test_processes_of_a_node_share_its_gpus(environment, expected):
    assert devices_of_the_node(environment) == expected


@pytest.mark.parametrize("tasks", [1, 2, 4, 8])
def test_no_gpu_is_left_out_and_none_is_used_twice(tasks):
    for launcher in (
        lambda rank: by_mpirun(rank, tasks, **EIGHT),
        lambda rank: by_srun(rank, f"{tasks}(x4)", **EIGHT, **GPUS),
    ):
        shares = [devices_of_the_node(launcher(rank)) for rank in range(tasks)]
        assert list(itertools.chain(*shares)) == ALL


def test_the_machine_is_asked_where_the_environment_is_silent():
    assert devices_of_the_node(by_mpirun(0, 1), gpus=8) == ALL
    assert devices_of_the_node(by_mpirun(7, 8), gpus=8) == [7]
    assert devices_of_the_node(by_mpirun(0, 1, **FOUR), gpus=8) == [0, 1, 2, 3]


def test_gpus_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"local-devices say .* got 8 GPUs and 3 pro"):
        devices_of_the_node(by_srun(0, "3", **EIGHT))


@pytest.fixture
def joined(monkeypatch):
    """What JAX's runtime is asked for, in an environment without any launcher."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: asked.append(a))
    return asked


def set_all(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_open_mpi_4_knows_where_the_processes_meet(joined, monkeypatch):
    set_all(monkeypatch, by_mpirun(1, 2, **EIGHT))
    with pytest.raises(ValueError, match=r"--distributed\.coordinator must name"):
        processes.start(Distributed())
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    processes.start(Distributed())
    assert joined == [(None, 8, 5, [4, 5, 6, 7])]


def test_a_rank_alone_is_alone_whatever_slurm_says_of_mpirun(joined, monkeypatch):
    environment = by_mpirun(0, 1, **by_srun(0, "1(x8)"))
    set_all(monkeypatch, {**environment, "OMPI_COMM_WORLD_SIZE": "1"})
    processes.start(Distributed())
    assert joined == []


def test_devices_that_are_named_are_the_ones(joined, monkeypatch):
    set_all(monkeypatch, by_mpirun(1, 3, **EIGHT))  # which do not divide
    chosen = Distributed(coordinator="host0:1234", local_devices=(2, 3, 4))
    processes.start(chosen)
    assert joined == [("host0:1234", 8, 5, [2, 3, 4])]


def test_devices_may_be_named_for_one_process(joined, monkeypatch):
    said = {}
    monkeypatch.setattr(jax.config, "update", said.__setitem__)
    processes.start(Distributed(local_devices=(0, 2)))
    assert joined == [] and said["jax_cuda_visible_devices"] == "0,2"


@pytest.mark.parametrize("devices", [(), (0, 0), (-1,)])
def test_devices_that_cannot_be_are_refused(devices):
    with pytest.raises(ValueError, match=r"--distributed\.local-devices must be"):
        Distributed(local_devices=devices)


def test_devices_are_numbers_on_the_command_line():
    arguments = ["--distributed.local-devices", "0", "1"]
    assert command.parse_train(arguments, DIGITS).distributed.local_devices == (0, 1)


def test_a_coordinator_alone_is_refused(joined, monkeypatch):
    """Where nothing else says who is who."""
    meeting = Distributed(coordinator="host0:1234")
    with pytest.raises(ValueError) as error:
        processes.start(meeting)
    for name in ("coordinator", "num-processes", "process-id"):
        assert f"--distributed.{name}" in str(error.value)
    set_all(monkeypatch, by_srun(1, "2(x4)", **EIGHT))
    processes.start(meeting)
    assert joined == [("host0:1234", None, None, [4, 5, 6, 7])]


@pytest.mark.parametrize(
    "found",
    [
        *("", "host0", "host0:", ":1234", "host0:0", "host0:65536", "host0:-1"),
        *("host0:http", "host0:1234 ", "host0:٣", "::1:1234", "[]:1234"),
        "http://host0:1234",
    ],
)
def test_a_coordinator_has_a_host_and_a_port(found):
    with pytest.raises(ValueError, match=r"--distributed\.coordinator must be") as e:
        Distributed(coordinator=found)
    assert str(e.value).endswith(f"got {found!r}")


@pytest.mark.parametrize("found", ["host0:1", "10.0.0.1:65535", "[::1]:1234"])
def test_a_coordinator_is_taken_as_it_is(found):
    assert Distributed(coordinator=found).coordinator == found


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"MEGASCALE_NUM_SLICES": "1"}, False),
        ({"MEGASCALE_NUM_SLICES": ""}, False),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:8476"}, False),
        (by_mpirun(0, 1), True),
    ],
)
def test_a_cluster_is_known_by_its_environment(environment, expected):
    assert in_cluster(environment) is expected


@pytest.mark.parametrize("chip", ["accel0", "accel3", "vfio/0", "vfio/2"])
def test_a_tpu_host_is_known_by_any_of_its_chips(monkeypatch, tmp_path, chip):
    monkeypatch.setattr(processes, "DEV", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there is one without a chip too
    (tmp_path / "accel").mkdir()  # as is where other accelerators have theirs
    assert not in_cluster({})
    (tmp_path / chip).touch()
    assert in_cluster({}) and in_cluster({"JAX_PLATFORMS": ""})
    assert not in_cluster({"JAX_PLATFORMS": "cpu"})


@pytest.mark.parametrize("value", [0, 7, -1, 2**31, -(2**63), 2**63 - 1])
def test_processes_agree_on_a_whole_number(monkeypatch, value):
    """Also where the exchange widens its bytes, as a sum over devices does."""
    assert processes.agree(value) == value
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda sent: sent.astype(np.uint32)
    )
    assert processes.agree(value) == value


@pytest.fixture
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_one_of_many(sigterm, monkeypatch):
    processes.end_on_sigterm()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    processes.end_on_sigterm()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Ended(BaseException):
    """Stands for the end of the process."""


def ending(error, monkeypatch, together, with_traceback=False, children=()):
    """How a command ends that raises this: the exception that comes out."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: children)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: together)
    monkeypatch.setenv("DDPM_JAX_TRACEBACK", "1" if with_traceback else "")
    with pytest.raises(BaseException) as caught, command.one_line_errors():
        raise error
    return caught.value


FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory:\n 9 bytes")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a\n b"), 1, "error: a b\n"),
        (TypeError("a thing"), 1, "Traceback"),
        (KeyError("a thing"), 1, "Traceback"),
        (jax.errors.JaxRuntimeError("INTERNAL: a thing"), 1, "Traceback"),
        (FULL, 1, "error: the device's memory is full"),
        (KeyboardInterrupt(), 130, "Traceback"),
        (SystemExit(3), 3, ""),
        (SystemExit("a thing"), 1, "a thing\n"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_one_of_many_ends_at_once(monkeypatch, capsys, error, code, said):
    """Whatever has stopped it: the others wait for it, and must see that it is gone."""
    ended = ending(error, monkeypatch, together=True)
    assert isinstance(ended, Ended) and ended.args == (code,)
    assert capsys.readouterr().err.startswith(said)


def test_one_of_many_ends_at_once_with_a_traceback(monkeypatch, capsys):
    error = ValueError("a thing")
    ended = ending(error, monkeypatch, together=True, with_traceback=True)
    assert isinstance(ended, Ended) and ended.args == (1,)
    assert capsys.readouterr().err.startswith("Traceback")


def test_one_of_many_ends_where_nobody_listens(monkeypatch, tmp_path):
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    assert isinstance(ending(ValueError("a thing"), monkeypatch, together=True), Ended)


def test_one_of_many_leaves_no_process_behind(monkeypatch):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    ending(TypeError("a thing"), monkeypatch, together=True, children=[child])
    child.join(30)
    assert child.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("code", [0, None])
def test_a_good_end_stays_one(monkeypatch, together, code):
    error = SystemExit(code)
    assert ending(error, monkeypatch, together) is error


@pytest.mark.parametrize(
    "error", [TypeError("a thing"), KeyboardInterrupt(), SystemExit(2)]
)
def test_a_process_alone_ends_as_python_does(monkeypatch, error):
    assert ending(error, monkeypatch, together=False) is error


def test_a_full_memory_is_one_line_that_says_what_to_try(monkeypatch, capsys):
    ended = ending(FULL, monkeypatch, together=False)
    assert isinstance(ended, SystemExit) and ended.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for what in ("smaller batch", "--train.accumulate", "--network.remat", "Out of"):
        assert what in said


def test_a_workdir_is_no_address():
    with pytest.raises(ValueError, match=r"mounted file system; got gs://bucket/run"):
        command.parse_train(["--workdir", "gs://bucket/run"], DIGITS)
    parsed = command.parse_train(["--workdir", "/mnt/run"], DIGITS)
    assert parsed.workdir == pathlib.Path("/mnt/run")
    assert command.parse_train([], DIGITS).workdir == pathlib.Path("runs/digits")

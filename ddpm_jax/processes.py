"""The processes of one run: how they find each other, wait, and stop together.

One process drives the devices of one host. JAX's own runtime connects them; on a TPU
pod and under SLURM's `srun` it knows by itself how many there are.
"""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
    """Where the processes meet; nothing to say on a TPU pod or under srun."""

    coordinator: str | None = None  # host:port of process 0
    num_processes: int | None = None  # how many there are
    process_id: int | None = None  # which one this is, from 0

    def __post_init__(self):
        if (self.num_processes is None) != (self.process_id is None) or (
            self.num_processes is not None and self.coordinator is None
        ):
            raise ValueError(
                "distributed.coordinator, num_processes and process_id go together; "
                f"got {self.coordinator}, {self.num_processes} and {self.process_id}"
            )
        if self.num_processes is not None and self.process_id is not None:
            if not 0 <= self.process_id < self.num_processes:
                raise ValueError(
                    "distributed.process_id must lie in "
                    f"0..{self.num_processes - 1}; got {self.process_id}"
                )


def start(distributed: Distributed) -> None:
    """Joins the other processes, if there are any. Comes before any use of a device.

    Raises:
        ValueError: if `mpirun` started it and nothing says where process 0 is.
    """
    count, mine = distributed.num_processes, distributed.process_id
    ranks = int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))
    if ranks > 1 and count is None:
        # From version 5 on, Open MPI says who is who but not where.
        if distributed.coordinator is None:
            raise ValueError(
                "under mpirun --distributed.coordinator must name the host and a port "
                "of process 0; got none"
            )
        count, mine = ranks, int(os.environ["OMPI_COMM_WORLD_RANK"])
    if distributed.coordinator is None and not in_cluster(os.environ):
        return
    jax.distributed.initialize(
        distributed.coordinator, count, mine, devices_of_the_node(os.environ)
    )


def devices_of_the_node(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of a process that is alone on its node; None leaves it to JAX.

    Under SLURM, JAX gives each task the one GPU with its local number, which is right
    for a task per GPU and wrong for a task per node.
    """
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 1(x4)
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    if tasks.split("(")[0] == "1" and "," not in tasks and gpus.isdecimal():
        return list(range(int(gpus)))
    return None


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a TPU pod or `srun` started this process together with others."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    return max(tasks, hosts) > 1 or _on_tpu_host(environment)


def _on_tpu_host(environment: Mapping[str, str]) -> bool:
    # There JAX asks the cloud's metadata server, which also knows a host that is alone.
    wanted = environment.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    reachable = "TPU_SKIP_MDS_QUERY" not in environment
    chips = any(pathlib.Path(x).exists() for x in ("/dev/accel0", "/dev/vfio/0"))
    libtpu = importlib.util.find_spec("libtpu") is not None
    return wanted and reachable and chips and libtpu


def is_main() -> bool:
    """Whether this process writes logs, pictures and JSON. Checkpoints all write."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def main_first(name: str, function: Callable[[], Result]) -> Result:
    """What the function returns; the others call it when the main process has.

    For what makes files that the later ones find: a data set that is prepared once.
    """
    # The processes meet first: what they wait for may take longer than meeting may.
    barrier(f"{name} begins")
    if is_main():
        result = function()
    barrier(name)
    if not is_main():
        result = function()
    return result

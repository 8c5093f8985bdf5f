"""The processes of one run: how they find each other, wait, and stop together.

One process drives the devices of one host. JAX's own runtime connects them; on a TPU
pod, under SLURM's `srun` or Open MPI's `mpirun` it knows by itself how many there are.
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
    """Where the processes meet; nothing to say on a TPU pod, under srun or mpirun."""

    coordinator: str | None = None  # host:port of process 0
    num_processes: int | None = None  # how many there are
    process_id: int | None = None  # which one this is, from 0

    def __post_init__(self):
        given = (self.coordinator, self.num_processes, self.process_id)
        if any(x is None for x in given) and any(x is not None for x in given):
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
    """Joins the other processes, if there are any. Comes before any use of a device."""
    if distributed.coordinator is not None:
        jax.distributed.initialize(
            distributed.coordinator, distributed.num_processes, distributed.process_id
        )
    elif in_cluster(os.environ):
        jax.distributed.initialize()


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a TPU host, `srun` or `mpirun` started this process with others."""
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    ranks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    return max(tasks, ranks, hosts) > 1 or _on_tpu_host(environment)


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
    if is_main():
        result = function()
    barrier(name)
    if not is_main():
        result = function()
    return result

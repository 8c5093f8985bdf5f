"""The processes of one run: how they find each other, wait, and stop together.

One process drives the devices of one host, or its share of them. JAX's own runtime
connects them; on a TPU pod and under SLURM's `srun` it knows by itself how many there
are.
"""

import dataclasses
import importlib.util
import os
import pathlib
import re
import signal
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Result = TypeVar("Result")

DEV = pathlib.Path("/dev")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
    """Where the processes meet; nothing to say on a TPU pod or under srun.

    Raises:
        ValueError: if an option cannot work, or another is missing.
    """

    coordinator: str | None = None  # host:port of process 0
    num_processes: int | None = None  # how many there are
    process_id: int | None = None  # which one this is, from 0
    # Which of the GPUs that this process sees are its own; None = as it was launched
    local_devices: tuple[int, ...] | None = None

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
        if self.coordinator is not None and not _is_address(self.coordinator):
            raise ValueError(
                "--distributed.coordinator must be host:port with a port in 1..65535; "
                f"got {self.coordinator!r}"
            )
        mine = self.local_devices
        if mine is not None and (
            not mine or min(mine) < 0 or len(set(mine)) < len(mine)
        ):
            raise ValueError(
                "--distributed.local-devices must be different numbers from 0; "
                f"got {' '.join(map(str, mine)) or 'none'}"
            )


def _is_address(text: str) -> bool:
    found = re.fullmatch(r"(?:\[[^\s\[\]]+\]|[^\s:/\[\]]+):([0-9]{1,5})", text)
    return found is not None and 1 <= int(found[1]) <= 65535


def start(distributed: Distributed) -> None:
    """Joins the other processes, if there are any. Comes before any use of a device.

    Raises:
        ValueError: if nothing says where process 0 is, or who is who, or if the GPUs of
            a node do not divide among its processes.
    """
    coordinator, environment = distributed.coordinator, os.environ
    count, mine = distributed.num_processes, distributed.process_id
    ranks = _number(environment, "OMPI_COMM_WORLD_SIZE")
    if count is None and ranks > 0:
        # Open MPI 4 says who is who and where; from version 5 on, only who is who.
        if ranks > 1 and not (coordinator or "OMPI_MCA_orte_hnp_uri" in environment):
            raise ValueError(
                "under mpirun --distributed.coordinator must name the host and a port "
                "of process 0; got none"
            )
        count, mine = ranks, int(environment["OMPI_COMM_WORLD_RANK"])
    if coordinator is not None and count is None and not in_cluster(environment):
        raise ValueError(
            "outside of mpirun and srun --distributed.coordinator needs "
            "--distributed.num-processes and --distributed.process-id beside it; "
            f"got {coordinator} alone"
        )
    if coordinator is None and not in_cluster(environment):
        if distributed.local_devices is not None:  # as initialize() says it to JAX
            chosen = ",".join(map(str, distributed.local_devices))
            for platform in ("cuda", "rocm"):
                jax.config.update(f"jax_{platform}_visible_devices", chosen)
        return
    devices: list[int] | None
    if distributed.local_devices is not None:
        devices = list(distributed.local_devices)
    else:
        devices = devices_of_the_node(environment, len(list(DEV.glob("nvidia[0-9]*"))))
    jax.distributed.initialize(coordinator, count, mine, devices)


def devices_of_the_node(
    environment: Mapping[str, str], gpus: int = 0
) -> list[int] | None:
    """This process's share of the GPUs that it sees; None leaves the choice to JAX.

    Left to itself, JAX gives each process of SLURM and Open MPI 4 the one GPU with its
    local number, which is right for a process per GPU only, and each process of Open
    MPI 5 all of them.

    Args:
        gpus: how many the machine has, where the environment does not say.

    Raises:
        ValueError: if they do not divide among the processes of the node.
    """
    platforms = environment.get("JAX_PLATFORMS") or "cuda"
    place = _place_on_node(environment)
    visible = _visible_gpus(environment, gpus)
    if (
        not {"cuda", "gpu", "rocm"} & set(platforms.split(","))
        or "JAX_LOCAL_DEVICE_IDS" in environment  # JAX reads it
        or place is None
        or not visible
    ):
        return None
    rank, count = place
    if _sees_its_own(environment, visible, count):
        return list(range(visible))
    if visible % count:
        raise ValueError(
            "the GPUs of a node must divide among its processes, or "
            "--distributed.local-devices say which are whose; "
            f"got {visible} GPUs and {count} processes"
        )
    share = visible // count
    return list(range(rank * share, (rank + 1) * share))


def _sees_its_own(environment: Mapping[str, str], visible: int, count: int) -> bool:
    """Whether the launcher has already hidden the GPUs of the other processes."""
    if count == 1 or visible < count:
        return True
    if _by_mpirun(environment):
        return False
    # --gpus-per-task and --gpu-bind; the first is a number, or type:number.
    bound = environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
    return bound == str(visible) or visible < _number(environment, "SLURM_GPUS_ON_NODE")


def _visible_gpus(environment: Mapping[str, str], gpus: int) -> int:
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return _number(environment, "SLURM_GPUS_ON_NODE") or gpus
    named = [name.strip() for name in listed.split(",")]
    return sum(name[:1].isdecimal() or name[:3] in ("GPU", "MIG") for name in named)


def _place_on_node(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Which process of its node this is, and of how many; None = nothing says it."""
    if _by_mpirun(environment):
        # SLURM's variables, if there are any, speak of mpirun's own daemons.
        rank = environment.get("OMPI_COMM_WORLD_LOCAL_RANK", "")
        count = _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")
    else:
        rank = environment.get("SLURM_LOCALID", "")
        counts: list[int] = []  # of each node, from such as 8(x4),2
        per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
        for run in filter(None, per_node.split(",")):
            tasks, _, nodes = run.rstrip(")").partition("(x")
            counts += [int(tasks)] * int(nodes or 1)
        node = environment.get("SLURM_NODEID", "")
        if len(set(counts)) == 1:
            count = counts[0]
        elif node.isdecimal() and int(node) < len(counts):
            count = counts[int(node)]
        else:
            return None
    if count == 1:
        return 0, 1
    return (int(rank), count) if count and rank.isdecimal() else None


def _number(environment: Mapping[str, str], name: str) -> int:
    """What the variable says; 0 where it says no number."""
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0


def _by_mpirun(environment: Mapping[str, str]) -> bool:
    return _number(environment, "OMPI_COMM_WORLD_SIZE") > 0


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a TPU pod, srun or mpirun started this process together with others."""
    by = "OMPI_COMM_WORLD_SIZE" if _by_mpirun(environment) else "SLURM_STEP_NUM_TASKS"
    tasks = _number(environment, by)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    addresses = environment.get("TPU_PROCESS_ADDRESSES", "").count(",") + 1
    slices = _number(environment, "MEGASCALE_NUM_SLICES")
    return max(tasks, hosts, addresses, slices) > 1 or _on_tpu_host(environment)


def _on_tpu_host(environment: Mapping[str, str]) -> bool:
    # There JAX asks the cloud's metadata server, which also knows a host that is alone.
    wanted = (environment.get("JAX_PLATFORMS") or "tpu").startswith("tpu")
    reachable = "TPU_SKIP_MDS_QUERY" not in environment
    chips = any(any(DEV.glob(x)) for x in ("accel[0-9]*", "vfio/[0-9]*"))
    libtpu = importlib.util.find_spec("libtpu") is not None
    return wanted and reachable and chips and libtpu


def end_on_sigterm() -> None:
    """Makes SIGTERM end this process again, where JAX's runtime has taken the signal.

    For programs that never ask whether JAX has been told to stop.
    """
    if jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_main() -> bool:
    """Whether this process writes logs, pictures and JSON. Checkpoints all write."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(value: int) -> int:
    """The main process's value, in every process."""
    # As bytes: on the way JAX would cut an integer to 32 bits.
    sent = np.frombuffer(value.to_bytes(8, "little", signed=True), np.uint8)
    received = multihost_utils.broadcast_one_to_all(sent)
    return int.from_bytes(bytes(received.tolist()), "little", signed=True)


def agree_on(values: Mapping[str, float]) -> dict[str, float]:
    """The main process's numbers, in every process; all have the same names."""
    sent = np.array(list(values.values()), np.float64).view(np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    return dict(zip(values, received.view(np.float64).tolist(), strict=True))


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

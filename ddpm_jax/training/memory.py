"""What a run takes of memory at the least, and how much there is."""

import contextlib
import math
import pathlib
import resource
from typing import Any

import jax

from ddpm_jax.training.state import TrainState

GROUP = pathlib.Path("/sys/fs/cgroup/memory.max")  # what a container is given


def check_fits(state: TrainState, *, fsdp: int = 1) -> None:
    """Raises ValueError if the state and one gradient exceed the memory of a device.

    Activations come on top, and are known only to the compiler.

    Args:
        state: its shapes and dtypes, e.g. of `jax.eval_shape`; no array is needed.
        fsdp: over how many devices it is split.
    """
    devices = jax.local_devices()
    needed = (_size(state) + _size(state.params)) // fsdp
    if devices[0].platform == "cpu":  # all of them share one memory
        needed *= len(devices)
    limits = _limits(devices[0])
    name = min(limits, key=lambda name: limits[name], default="")
    if name and needed > limits[name]:
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
        raise ValueError(
            f"a network of {count:,} parameters, with their average, the optimiser's "
            f"state and a gradient, takes {needed / 1e9:.1f} GB, and more to compute "
            f"with; {name} is {limits[name] / 1e9:.1f} GB: lower network.channels, or "
            "divide it over more devices by train.fsdp"
        )


def _limits(device: jax.Device) -> dict[str, int]:
    """Every bound on the memory of a device that can be found, in bytes."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        name = f"the memory of {device.device_kind}"
        return {name: stats["bytes_limit"]} if "bytes_limit" in stats else {}
    limits = {}
    for name, kind in (("ulimit -v", "RLIMIT_AS"), ("ulimit -d", "RLIMIT_DATA")):
        soft, _ = resource.getrlimit(getattr(resource, kind))
        if soft != resource.RLIM_INFINITY:
            limits[name] = soft
    with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
        limits["the memory of the control group"] = int(GROUP.read_text())
    with contextlib.suppress(OSError, ValueError, StopIteration):  # not Linux
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        total = next(line for line in lines if line.startswith("MemTotal:"))
        limits["the memory of the machine"] = int(total.split()[1]) * 1024
    return limits


def _size(tree: Any) -> int:
    """Bytes of the arrays of a tree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))

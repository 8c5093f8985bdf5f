"""What the benchmarks share: timing by turns, naming the machine."""

import datetime
import json
import os
import pathlib
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np


def take_turns(
    calls: dict[str, Callable[[], Any]], *, repeats: int
) -> dict[str, np.ndarray]:
    """Milliseconds of each call, (repeats,), the calls taking turns.

    Each call returns what to wait for. The first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(values) for name, values in times.items()}


def spread(milliseconds: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(milliseconds, [25, 50, 75])
    return {"median_ms": median, "low_ms": low, "high_ms": high}


def peak_memory() -> dict[str, Any]:
    """Bytes at the peak: of the device where it says so, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"bytes": stats["peak_bytes_in_use"], "of": "device"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"bytes": peak, "of": "process"}


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure belongs to."""
    devices = jax.devices()
    return {
        "date": datetime.date.today().isoformat(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "platform": devices[0].platform,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
    }


def write(path: pathlib.Path, result: dict[str, Any]) -> None:
    """The result with its environment, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**result, "environment": environment()}
    path.write_text(json.dumps(whole, indent=2, default=float) + "\n")
    print(f"wrote {path}")


def keep(path: pathlib.Path, name: str, found: dict[str, Any]) -> None:
    """Puts what was found into a JSON file under a name; all else in it stays."""
    whole = json.loads(path.read_text()) if path.exists() else {}
    whole[name] = whole.get(name, {}) | found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=2, default=float) + "\n")
    print(f"wrote {name} into {path}", flush=True)


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()

"""The start of a run: its programs compile at the same time, and a clock tells."""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.config import Config
from ddpm_jax.flops import count, model_flops
from ddpm_jax.networks import Network, UNet
from ddpm_jax.networks.convolutions import DIRECT
from ddpm_jax.training.parallel import Chosen, Resident, Runner, Update
from ddpm_jax.training.setup import make_update
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Batch

PHASES = {  # of a start, in their order
    "imports": "imports and options",
    "data": "data and checkpoints",
    "trace": "tracing",
    "compile": "compiling",
    "update": "the update",
}


def process_began() -> float | None:
    """When this process did, by `time.perf_counter`; None where nothing says it."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the machine's boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, AttributeError, ValueError, IndexError):  # not Linux
        return None
    return time.perf_counter() - age


class Clock:
    """How long the phases of a start take."""

    def __init__(self, began: float | None):
        """Now ends the first phase.

        Args:
            began: when the process did, by `time.perf_counter`; None = now.
        """
        self._last = time.perf_counter() if began is None else began
        self.seconds: dict[str, float] = {}
        self.ends("imports")

    def ends(self, phase: str) -> None:
        """A phase ends now."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        """What a log keeps of it."""
        compiling = self.seconds["trace"] + self.seconds["compile"]
        total = sum(self.seconds.values())
        return {"start_seconds": total, "compile_seconds": compiling}

    def __str__(self) -> str:
        parts = [f"{PHASES[name]} {x:.1f}" for name, x in self.seconds.items()]
        total = self.metrics()["start_seconds"]
        return f"first update after {total:.1f} s: {', '.join(parts)}"


class Start(NamedTuple):
    """What is under way when a run starts."""

    update: Future[Update]
    state: Future[Callable[[], Any]] | None  # the program that makes the first state
    flops: Callable[[], float]  # of one update, on all devices; may take a second


def begin(
    pool: Executor,
    runner: Runner,
    config: Config,
    network: Network,
    initial_state: Callable[[], TrainState] | None,
    abstract_state: TrainState,
    resident: Resident | None,
) -> Start:
    """Compiles in the pool what is traced here, where JAX's contexts hold.

    Args:
        initial_state: None for a run that has a state.
        abstract_state: shapes and dtypes of what `initial_state` makes.
        resident: the data that the runner is to hold.
    """
    state: Future[Callable[[], Any]] | None = None
    if initial_state is not None:
        state = pool.submit(runner.lower_state(initial_state).compile)
    jaxpr, compile_update = runner.ahead(
        _shapes(resident), abstract_batch(config, resident)
    )
    update = pool.submit(compile_update)
    plain = as_defined(network)
    if jaxpr is not None and plain == network:
        return Start(update, state, functools.partial(count, jaxpr))
    flops = functools.partial(_count_again, config, plain, abstract_state)
    return Start(update, state, flops)


def as_defined(network: Network) -> Network:
    """The network whose FLOPs are those of the model: it does nothing twice, and each
    product of a convolution.
    """
    if isinstance(network, UNet):
        return network.clone(remat="none", convolutions=DIRECT)
    return network


def abstract_batch(config: Config, resident: Resident | None) -> Chosen | Batch:
    """The shapes and dtypes of a global batch."""
    data = config.data
    rows: Any = jax.ShapeDtypeStruct((config.train.batch_size,), jnp.int32)
    if resident is not None:
        return Chosen(rows, rows)
    shape = (*rows.shape, data.image_size, data.image_size, data.channels)
    image: Any = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return Batch(image, None if data.num_classes is None else rows, rows)


def _count_again(config: Config, network: Network, state: TrainState) -> float:
    """FLOPs of an update."""
    step, _ = make_update(config, network)
    return model_flops(step, state, abstract_batch(config, None))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

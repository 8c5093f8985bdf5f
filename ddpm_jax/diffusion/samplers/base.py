"""What a sampler is, and what the step of every sampler is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure, as_closure
from ..denoiser import Denoiser
from ..noise import draw_noise
from ..schedules import Schedule, at


class StepInfo(NamedTuple):
    """What a step computed besides its result."""

    x0: Array  # the (clipped) prediction of x_0 that the step was built on


class SampleState(NamedTuple):
    """The state of a sampler without memory."""

    x: Array  # the current sample, (batch, *data)


# (key, denoise, schedule, state, i) -> the state at index i - 1, of the same structure
Step = Callable[[Array, Denoiser, Schedule, Any, Array], tuple[Any, StepInfo]]


class Sampler(NamedTuple):
    """A way down the chain: two pure functions, as optax's transformations are."""

    # (schedule, x) -> state, a pytree whose field x is the current sample
    init: Callable[[Schedule, Array], Any]
    step: Step

    @property
    def spacing(self) -> str:
        """The spacing that suits it where only the number of steps is given.

        A name, "uniform" unless the step's function was marked by `suits`.
        """
        function = self.step.function if isinstance(self.step, Closure) else self.step
        return getattr(function, "spacing", "uniform")


def check_sampler(sampler: Any) -> None:
    """Raises ValueError unless it is a Sampler, and not the function that makes one."""
    if not isinstance(sampler, Sampler):
        hint = ": call it" if callable(sampler) else ""
        raise ValueError(
            f"sampler must be a Sampler, e.g. samplers.ddim(); got {sampler!r}{hint}"
        )


def suits(spacing: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks the step of a sampler with the name of the spacing that suits it."""

    def mark(step: Callable[..., Any]) -> Callable[..., Any]:
        vars(step)["spacing"] = spacing
        return step

    return mark


def memoryless(update: Callable[..., Array], *, stochastic: bool) -> Sampler:
    """The sampler whose state is x and whose step is an update.

    Args:
        update: (schedule, xt, i, estimate, noise) -> x at index i - 1.
        stochastic: whether noise is drawn; the update is given None where it is not.
    """
    step = Closure(_step, update=as_closure(update), stochastic=stochastic)
    return Sampler(start, step)


def start(schedule: Schedule, x: Array) -> SampleState:
    """The init of a sampler without memory."""
    del schedule
    return SampleState(x)


def floating(schedule: Schedule, x: Array) -> Array:
    """x of the type that a chain makes of it: what a loop begins with must last."""
    return jnp.asarray(x, jnp.result_type(x, schedule.betas))


def before(table: Array, first: float, i: Array, like: Array) -> Array:
    """table[i - 1], and `first` before index 0; to broadcast against `like`."""
    shifted = jnp.concatenate([jnp.full(1, first, table.dtype), table[:-1]])
    return at(shifted, i, like)


def _step(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    state: SampleState,
    i: Array,
    *,
    update: Callable[..., Array],
    stochastic: bool,
) -> tuple[SampleState, StepInfo]:
    estimate = denoise(schedule, state.x, i)
    noise = draw_noise(key, state.x) if stochastic else None
    x = update(schedule, state.x, i, estimate, noise)
    return SampleState(x), StepInfo(estimate.x0)

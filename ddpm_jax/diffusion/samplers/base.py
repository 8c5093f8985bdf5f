"""What a sampler is, and what the step of every sampler is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure, as_closure
from ..denoiser import Denoiser, Estimate
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
# (schedule, state, i, estimate, noise or None) -> the state at index i - 1
Update = Callable[[Schedule, Any, Array, Estimate, Any], Any]


class Sampler(NamedTuple):
    """A way down the chain: two pure functions, as optax's transformations are."""

    # (schedule, x) -> state, a pytree whose field x is the current sample
    init: Callable[[Schedule, Array], Any]
    step: Step

    @property
    def spacing(self) -> str:
        """The spacing that suits it where only the number of steps is given.

        A name, "uniform" unless the step, or its update, was marked by `suits`.
        """
        function: Any = self.step
        while isinstance(function, Closure):
            function = function.values.get("update", function.function)
        return getattr(function, "spacing", "uniform")


def check_sampler(sampler: Any) -> None:
    """Raises ValueError unless it is a Sampler, and not the function that makes one."""
    if not isinstance(sampler, Sampler):
        hint = ": call it" if callable(sampler) else ""
        raise ValueError(
            f"sampler must be a Sampler, e.g. samplers.ddim(); got {sampler!r}{hint}"
        )


def suits(spacing: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a sampler's step, or its update, with the name of the spacing it likes."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        vars(function)["spacing"] = spacing
        return function

    return mark


def start(schedule: Schedule, x: Array) -> SampleState:
    """The init of a sampler without memory."""
    del schedule
    return SampleState(x)


def one_call(
    update: Update, *, stochastic: bool, init: Callable[..., Any] = start
) -> Sampler:
    """The sampler that asks the denoiser once a step and updates its state with that.

    Noise is drawn only where it is stochastic; else the update is given None.
    """
    step = Closure(_step, update=as_closure(update), stochastic=stochastic)
    return Sampler(init, step)


def memoryless(update: Update, *, stochastic: bool) -> Sampler:
    """The sampler whose state is x alone, and whose update is one of x."""
    return one_call(Closure(_of_x, update=as_closure(update)), stochastic=stochastic)


def floating(schedule: Schedule, x: Array) -> Array:
    """x of the type that a chain makes of it: what a loop begins with must last."""
    return jnp.asarray(x, jnp.result_type(x, schedule.betas))


def before(table: Array, first: float, i: Array, like: Array) -> Array:
    """table[i - 1], and `first` before index 0; to broadcast against `like`."""
    shifted = jnp.concatenate([jnp.full(1, first, table.dtype), table[:-1]])
    return at(shifted, i, like)


def _step(key, denoise, schedule, state, i, *, update: Update, stochastic: bool):
    estimate = denoise(schedule, state.x, i)
    noise = draw_noise(key, state.x) if stochastic else None
    return update(schedule, state, i, estimate, noise), StepInfo(estimate.x0)


def _of_x(schedule, state, i, estimate, noise, *, update: Update) -> SampleState:
    return SampleState(update(schedule, state.x, i, estimate, noise))

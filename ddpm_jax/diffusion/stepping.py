"""What a sampler is, and what the step of every sampler is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import Schedule, at
from ddpm_jax.diffusion.transitions import Clip, Predict, Prediction, split_output

Denoise = Callable[[jax.Array, jax.Array], jax.Array]  # (x, t) -> output


class Sampler(NamedTuple):
    """A way down the chain: two pure functions, as optax's transformations are.

    The functions of this package are `Bound` pytrees; plain functions work as well.
    """

    init: Callable[..., Any]  # (schedule, x) -> state, a pytree with the field x
    step: Callable[..., Any]  # (key, denoise, schedule, state, i) -> (state, StepInfo)

    @property
    def spacing(self) -> str:
        """The spacing that suits it where only the number of steps is given.

        A name, "uniform" unless the step's function was marked by `suits`.
        """
        function = getattr(self.step, "function", self.step)
        return getattr(function, "spacing", "uniform")


def suits(spacing: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks the step of a sampler with the name of the spacing that suits it."""

    def mark(step: Callable[..., Any]) -> Callable[..., Any]:
        vars(step)["spacing"] = spacing
        return step

    return mark


class StepInfo(NamedTuple):
    """What a step computed besides its result."""

    x0: jax.Array  # the (clipped) prediction of x_0 that the step was built on


class SampleState(NamedTuple):
    """The state of a sampler without memory."""

    x: jax.Array  # the current sample, (batch, *data)


def start(schedule: Schedule, x: jax.Array, *, predict: Predict) -> SampleState:
    """The init of a sampler without memory, once `predict` is known to be possible."""
    check_prediction(schedule, predict)
    return SampleState(x)


def check_prediction(schedule: Schedule, predict: Predict) -> None:
    """Raises what `predict` raises on a concrete schedule that it cannot work with."""
    # Tried out on one number and not under a trace, where no value is concrete.
    one = jnp.ones(1, schedule.betas.dtype)
    predict(schedule, one, jnp.zeros(1, jnp.int32), one)


def ask(denoise: Denoise, schedule: Schedule, x: jax.Array, i: jax.Array) -> jax.Array:
    """The network's output for x at index i: every example is told timesteps[i]."""
    return denoise(x, jnp.full(x.shape[:1], schedule.timesteps[i]))


def read(
    schedule: Schedule,
    xt: jax.Array,
    i: jax.Array,
    output: jax.Array,
    *,
    predict: Predict,
    clip: Clip | None,
) -> Prediction:
    """What the mean part of an output says, with x_0 limited and eps as it was said."""
    mean_part, _ = split_output(output, xt)
    prediction = predict(schedule, xt, i, mean_part)
    if clip is None:
        return prediction
    return prediction._replace(x0=clip(prediction.x0))


def floating(schedule: Schedule, x: jax.Array) -> jax.Array:
    """x of the type that a chain makes of it: what a loop begins with must last."""
    return jnp.asarray(x, jnp.result_type(x, schedule.betas))


def before(table: jax.Array, first: float, i: jax.Array, like: jax.Array) -> jax.Array:
    """table[i - 1], and `first` before index 0; to broadcast against `like`."""
    shifted = jnp.concatenate([jnp.full(1, first, table.dtype), table[:-1]])
    return at(shifted, i, like)

"""The variance of the reverse process: fixed, or read from the network's second half.

`values` is the second half of an output with twice the channels of x_t, else None.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .schedules import Schedule, at


class Variance(NamedTuple):
    """A reverse variance and its logarithm, broadcasting against the data."""

    variance: Array
    log_variance: Array


Values = Array | None
# (schedule, t, values, x_t) -> the variance, or its logarithm alone
VarianceRule = Callable[[Schedule, Array, Values, Array], Variance | Array]


def fixed_small(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """beta~_t, the variance of the posterior: optimal for a single data point."""
    del values
    log_variance = at(schedule.posterior_log_variance_clipped, t, like)
    return Variance(at(schedule.posterior_variance, t, like), log_variance)


def fixed_large(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """beta_t, optimal for x_0 ~ N(0, I); beta~_1 at t = 0, which only decoders read."""
    del values
    return as_variance(at(schedule.log_betas_clipped, t, like))


def learned(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """The network's second half is the log-variance itself.

    Raises:
        ValueError: if the network's output has no second half.
    """
    del schedule, t
    return as_variance(_second_half(values, like))


def learned_range(
    schedule: Schedule, t: Array, values: Values, like: Array
) -> Variance:
    """The second half v interpolates log-variances (Nichol & Dhariwal 2021, eq. 15).

        log variance = f log beta_t + (1 - f) log beta~_t,  f = (v + 1) / 2

    v is not clipped: the network may leave the range, as it may in the reference code.

    Raises:
        ValueError: if the network's output has no second half.
    """
    fraction = (_second_half(values, like) + 1) / 2
    largest = jnp.log(at(schedule.betas, t, like))
    smallest = at(schedule.posterior_log_variance_clipped, t, like)
    return as_variance(fraction * largest + (1 - fraction) * smallest)


def as_variance(value: Variance | Array) -> Variance:
    """Both, from what a rule returned: both, or the log-variance alone."""
    return value if isinstance(value, Variance) else Variance(jnp.exp(value), value)


def _second_half(values: Values, like: Array) -> Array:
    if values is None:
        raise ValueError(
            "a learned variance needs a network with twice the data's channels; "
            f"got an output of the shape of the data, {like.shape}"
        )
    return values

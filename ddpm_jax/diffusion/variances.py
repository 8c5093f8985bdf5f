"""The variance of the reverse process: fixed, or read from the network's second half.

`values` is the second half of an output with twice the channels of x_t, else None.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .schedules import Schedule, at


class Variance(NamedTuple):
    """A reverse variance and its logarithm, broadcasting against the data.

    Attributes:
        variance: of each coordinate, (), (batch, 1, ..., 1) or (batch, *data).
        log_variance: its natural logarithm, of the same shape; finite where a variance
            of 0 stands for its limit.
    """

    variance: Array
    log_variance: Array


Values = Array | None
"""The network's second half, (batch, *data), or None where it has none."""

VarianceRule = Callable[[Schedule, Array, Values, Array], Variance | Array]
"""(schedule, t, values, x_t) -> the variance, or its logarithm alone."""


def fixed_small(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """beta~_t, the variance of the posterior (Ho et al. 2020, eq. 7).

    Optimal for a single data point (section 3.2).

    Args:
        schedule: the chain.
        t: steps in 0..T-1, () or (batch,).
        values: not read.
        like: x_t, (batch, *data).

    Returns:
        The variance, to broadcast against `like`: () or (batch, 1, ..., 1). Its
        logarithm at t = 0 is that of t = 1.

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> t, x = jnp.array([0, 999]), jnp.zeros((2, 8, 8, 1))
        >>> small = transitions.fixed_small(schedule, t, None, x)
        >>> small.variance.shape
        (2, 1, 1, 1)
        >>> print(np.asarray(small.variance.ravel()).round(5))
        [0.   0.02]
    """
    del values
    log_variance = at(schedule.posterior_log_variance_clipped, t, like)
    return Variance(at(schedule.posterior_variance, t, like), log_variance)


def fixed_large(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """beta_t, optimal for x_0 ~ N(0, I) (Ho et al. 2020, section 3.2).

    At t = 0 it is beta~_1, which only decoders read (Ho's code).

    Args:
        schedule: the chain.
        t: steps in 0..T-1, () or (batch,).
        values: not read.
        like: x_t, (batch, *data).

    Returns:
        The variance, to broadcast against `like`: () or (batch, 1, ..., 1).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> x = jnp.zeros((1, 8, 8, 1))
        >>> large = transitions.fixed_large(schedule, jnp.array(999), None, x)
        >>> round(float(large.variance), 5)
        0.02
    """
    del values
    return as_variance(at(schedule.log_betas_clipped, t, like))


def learned(schedule: Schedule, t: Array, values: Values, like: Array) -> Variance:
    """The network's second half is the log-variance itself (Nichol & Dhariwal 2021).

    Their code has it as LEARNED; `learned_range` is what the paper recommends.

    Args:
        schedule: not read.
        t: not read; () or (batch,).
        values: the network's second half, (batch, *data): log-variances.
        like: x_t, (batch, *data).

    Returns:
        The variance, (batch, *data).

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

    Args:
        schedule: the chain.
        t: steps in 0..T-1, () or (batch,).
        values: v, the network's second half, (batch, *data), in [-1, 1] or nearly.
        like: x_t, (batch, *data).

    Returns:
        The variance, (batch, *data).

    Raises:
        ValueError: if the network's output has no second half, or a concrete t lies
            outside the chain.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> t, x = jnp.array(500), jnp.zeros((1, 2))
        >>> v = jnp.array([[-1.0, 1.0]])  # beta~_t and beta_t
        >>> learned = transitions.learned_range(schedule, t, v, x)
        >>> print(np.asarray(learned.variance).round(5))
        [[0.01005 0.01006]]
    """
    fraction = (_second_half(values, like) + 1) / 2
    largest = jnp.log(at(schedule.betas, t, like))
    smallest = at(schedule.posterior_log_variance_clipped, t, like)
    return as_variance(fraction * largest + (1 - fraction) * smallest)


def as_variance(value: Variance | Array) -> Variance:
    """Both, from what a rule returned: both, or the log-variance alone.

    Args:
        value: a `Variance`, or log-variances that broadcast against (batch, *data).

    Returns:
        The variance and its logarithm, of the shape of the latter.
    """
    return value if isinstance(value, Variance) else Variance(jnp.exp(value), value)


def _second_half(values: Values, like: Array) -> Array:
    if values is None:
        raise ValueError(
            "a learned variance needs a network with twice the data's channels; "
            f"got an output of the shape of the data, {like.shape}"
        )
    return values

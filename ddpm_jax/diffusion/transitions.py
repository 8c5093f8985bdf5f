"""The transitions q and p of the diffusion as pure functions (Ho et al. 2020).

Arrays are (batch, *anything), images NHWC in [-1, 1]; a step t is an integer, a scalar
or of shape (batch,), counted from 0. Noise is always an argument: nothing here draws.
A traced step outside 0..T-1 makes the result NaN; a concrete one raises ValueError.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.gaussians import Gaussian
from ddpm_jax.diffusion.schedules import Schedule, at


class Prediction(NamedTuple):
    """What a network says about x_t, in its three equivalent forms."""

    x0: jax.Array
    eps: jax.Array
    v: jax.Array  # sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0


Predict = Callable[[Schedule, jax.Array, jax.Array, jax.Array], Prediction]
Clip = Callable[[jax.Array], jax.Array]


class Variance(NamedTuple):
    """A reverse variance and its logarithm, broadcasting against the data."""

    variance: jax.Array
    log_variance: jax.Array


# (schedule, t, the output's variance part, x_t) -> both, or the log-variance alone
VarianceRule = Callable[
    [Schedule, jax.Array, jax.Array | None, jax.Array], Variance | jax.Array
]


def q_step(
    schedule: Schedule, x_prev: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise (eq. 2)."""
    beta = at(schedule.betas, t, x_prev)
    return jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * noise


def q_sample(
    schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array
) -> jax.Array:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (eq. 4)."""
    signal = at(schedule.sqrt_alphas_cumprod, t, x0)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return signal * x0 + sigma * noise


def q_mean_variance(schedule: Schedule, x0: jax.Array, t: jax.Array) -> Gaussian:
    """q(x_t | x_0) (eq. 4)."""
    log_variance = at(schedule.log_one_minus_alphas_cumprod, t, x0)
    mean = at(schedule.sqrt_alphas_cumprod, t, x0) * x0
    return _gaussian(mean, log_variance)


def q_posterior(
    schedule: Schedule, x0: jax.Array, xt: jax.Array, t: jax.Array
) -> Gaussian:
    """q(x_{t-1} | x_t, x_0) (eqs. 6-7). At t = 0 it is the point mass at x_0.

    The log-variance at t = 0 is that of t = 1, which keeps it finite.
    """
    x0_weight = at(schedule.posterior_mean_coef1, t, x0)
    xt_weight = at(schedule.posterior_mean_coef2, t, xt)
    mean = x0_weight * x0 + xt_weight * xt
    return _gaussian(mean, fixed_small(schedule, t, None, xt))


def from_eps(
    schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array
) -> Prediction:
    """The prediction of a network whose output is eps, the noise in x_t (eq. 15).

    Raises:
        ValueError: if a concrete schedule has zero terminal SNR, where eps leaves x_0
            open; a traced one gives NaN there.
    """
    check_signal(schedule)
    ratio = at(schedule.sqrt_recipm1_alphas_cumprod, t, xt)
    ratio = jnp.where(jnp.isinf(ratio), jnp.nan, ratio)  # a clip would hide infinity
    x0 = at(schedule.sqrt_recip_alphas_cumprod, t, xt) * xt - ratio * output
    return Prediction(x0, output, velocity(schedule, x0, t, output))


def from_x0(
    schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array
) -> Prediction:
    """The prediction of a network whose output is x_0."""
    signal = at(schedule.sqrt_alphas_cumprod, t, xt)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, xt)
    eps = (xt - signal * output) / sigma
    return Prediction(output, eps, velocity(schedule, output, t, eps))


def from_v(
    schedule: Schedule, xt: jax.Array, t: jax.Array, output: jax.Array
) -> Prediction:
    """The prediction of a network whose output is v (Salimans & Ho 2022, section 4)."""
    signal = at(schedule.sqrt_alphas_cumprod, t, xt)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, xt)
    return Prediction(
        signal * xt - sigma * output, signal * output + sigma * xt, output
    )


def velocity(
    schedule: Schedule, x0: jax.Array, t: jax.Array, eps: jax.Array
) -> jax.Array:
    """v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022)."""
    signal = at(schedule.sqrt_alphas_cumprod, t, x0)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return signal * eps - sigma * x0


def check_signal(schedule: Schedule) -> None:
    """Raises ValueError if a concrete schedule ends without signal (zero SNR)."""
    table = schedule.alphas_cumprod
    if not isinstance(table, jax.core.Tracer) and np.asarray(table)[-1] == 0:
        raise ValueError(
            "a network that predicts eps cannot start from zero terminal SNR, where "
            "eps says nothing of x_0: predict v or x0; got alpha_bar = 0 at step "
            f"{schedule.num_steps - 1}"
        )


def fixed_small(
    schedule: Schedule, t: jax.Array, values: jax.Array | None, like: jax.Array
) -> Variance:
    """beta~_t, the variance of the posterior: optimal for a single data point."""
    del values
    return Variance(
        at(schedule.posterior_variance, t, like),
        at(schedule.posterior_log_variance_clipped, t, like),
    )


def fixed_large(
    schedule: Schedule, t: jax.Array, values: jax.Array | None, like: jax.Array
) -> Variance:
    """beta_t, optimal for x_0 ~ N(0, I); beta~_1 at t = 0, which only decoders read."""
    del values
    log_variance = at(schedule.log_betas_clipped, t, like)
    return Variance(jnp.exp(log_variance), log_variance)


def learned(
    schedule: Schedule, t: jax.Array, values: jax.Array | None, like: jax.Array
) -> Variance:
    """The network's second half is the log-variance itself.

    Raises:
        ValueError: if the network's output has no second half.
    """
    del schedule, t
    log_variance = _second_half(values, like)
    return Variance(jnp.exp(log_variance), log_variance)


def learned_range(
    schedule: Schedule, t: jax.Array, values: jax.Array | None, like: jax.Array
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
    log_variance = fraction * largest + (1 - fraction) * smallest
    return Variance(jnp.exp(log_variance), log_variance)


def split_output(
    output: jax.Array, xt: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """A network's output as (mean part, variance part or None), by its channels.

    Raises:
        ValueError: if the last axis is neither that of xt nor twice it.
    """
    if output.shape == xt.shape:
        return output, None
    if output.shape == (*xt.shape[:-1], 2 * xt.shape[-1]):
        mean_part, variance_part = jnp.split(output, 2, axis=-1)
        return mean_part, variance_part
    raise ValueError(
        "a network's output must have the shape of x_t, or twice its channels where "
        f"the variance is learned; got {output.shape} for x_t of shape {xt.shape}"
    )


def p_mean_variance(
    schedule: Schedule,
    xt: jax.Array,
    t: jax.Array,
    output: jax.Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = None,
) -> tuple[Gaussian, Prediction]:
    """p(x_{t-1} | x_t) as q(x_{t-1} | x_t, x_0) at the x_0 that the network predicts.

    Without clipping the mean is eq. 11 of the paper; with it, the reference code's.

    Args:
        output: what the network returned for (x_t, t): the shape of xt, or, for a
            learned variance, twice its channels: [mean part, variance part].
        predict: how to read the mean part: `from_eps`, `from_x0` or `from_v`.
        variance: `fixed_small`, `fixed_large`, `learned`, `learned_range`, or another
            function of the same arguments to the log-variance.
        clip: applied to the predicted x_0, e.g. `guidance.clip_static()`.

    Returns:
        The Gaussian, and the prediction that it was built on: after clipping, with eps
        and v derived again from the clipped x_0.
    """
    mean_part, values = split_output(output, xt)
    prediction = predict(schedule, xt, t, mean_part)
    if clip is not None:
        prediction = from_x0(schedule, xt, t, clip(prediction.x0))
    mean = q_posterior(schedule, prediction.x0, xt, t).mean
    return _gaussian(mean, variance(schedule, t, values, xt)), prediction


def p_sample(gaussian: Gaussian, t: jax.Array, noise: jax.Array) -> jax.Array:
    """x_{t-1} = mean + sigma noise (algorithm 2, line 4); at t = 0 the mean alone.

    Raises:
        ValueError: if t is not of integers, or a concrete one is negative; a traced one
            gives NaN.
    """
    if not jnp.issubdtype(jnp.result_type(t), jnp.integer):
        raise ValueError(f"a step must be an integer; got {jnp.result_type(t)}")
    if not isinstance(t, jax.core.Tracer) and np.any(np.asarray(t) < 0):
        raise ValueError(f"a step must not be negative; got {np.min(t)}")
    t = jnp.asarray(t)
    t = t.reshape(t.shape + (1,) * (noise.ndim - t.ndim if t.ndim else 0))
    sigma = jnp.exp(0.5 * gaussian.log_variance)
    sigma = jnp.where(t > 0, sigma, jnp.where(t == 0, 0.0, jnp.nan))
    return gaussian.mean + sigma * noise


def _gaussian(mean: jax.Array, variance: Variance | jax.Array) -> Gaussian:
    """The Gaussian of this mean, all fields of its shape."""
    if not isinstance(variance, Variance):
        variance = Variance(jnp.exp(variance), variance)
    return Gaussian(mean, *(jnp.broadcast_to(each, mean.shape) for each in variance))


def _second_half(values: jax.Array | None, like: jax.Array) -> jax.Array:
    if values is None:
        raise ValueError(
            "a learned variance needs a network with twice the data's channels; "
            f"got an output of the shape of the data, {like.shape}"
        )
    return values

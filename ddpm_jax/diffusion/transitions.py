"""The transitions q and p of the diffusion as pure functions (Ho et al. 2020).

Arrays are (batch, *anything), images NHWC in [-1, 1]; a step t is an integer, a scalar
or of shape (batch,), counted from 0. Noise is always an argument: nothing here draws.
A traced step outside 0..T-1 makes the result NaN; a concrete one raises ValueError.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from .denoiser import Clip as Clip
from .denoiser import read
from .denoiser import split_output as split_output
from .gaussians import Gaussian
from .parametrisations import Predict as Predict
from .parametrisations import Prediction as Prediction
from .parametrisations import from_eps as from_eps
from .parametrisations import from_v as from_v
from .parametrisations import from_x0 as from_x0
from .parametrisations import velocity as velocity
from .schedules import Schedule, at, concrete, per_example
from .variances import Variance as Variance
from .variances import VarianceRule as VarianceRule
from .variances import as_variance, fixed_large, fixed_small
from .variances import learned as learned
from .variances import learned_range as learned_range


def q_step(schedule: Schedule, x_prev: Array, t: Array, noise: Array) -> Array:
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise (eq. 2)."""
    beta = at(schedule.betas, t, x_prev)
    return jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * noise


def q_sample(schedule: Schedule, x0: Array, t: Array, noise: Array) -> Array:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (eq. 4)."""
    signal = at(schedule.sqrt_alphas_cumprod, t, x0)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return signal * x0 + sigma * noise


def q_mean_variance(schedule: Schedule, x0: Array, t: Array) -> Gaussian:
    """q(x_t | x_0) (eq. 4)."""
    log_variance = at(schedule.log_one_minus_alphas_cumprod, t, x0)
    mean = at(schedule.sqrt_alphas_cumprod, t, x0) * x0
    return _gaussian(mean, as_variance(log_variance))


def q_posterior(schedule: Schedule, x0: Array, xt: Array, t: Array) -> Gaussian:
    """q(x_{t-1} | x_t, x_0) (eqs. 6-7). At t = 0 it is the point mass at x_0.

    The log-variance at t = 0 is that of t = 1, which keeps it finite.
    """
    x0_weight = at(schedule.posterior_mean_coef1, t, x0)
    xt_weight = at(schedule.posterior_mean_coef2, t, xt)
    mean = x0_weight * x0 + xt_weight * xt
    return _gaussian(mean, fixed_small(schedule, t, None, xt))


def p_mean_variance(
    schedule: Schedule,
    xt: Array,
    t: Array,
    output: Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = None,
) -> tuple[Gaussian, Prediction]:
    """p(x_{t-1} | x_t) as q(x_{t-1} | x_t, x_0) at the x_0 that the network predicts.

    Without clipping the mean is eq. 11 of the paper; with it, the reference code's.

    Args:
        output: a `denoiser.Network`'s for (x_t, t).
        predict, variance, clip: how to read it, as for `denoiser.denoiser`.

    Returns:
        The Gaussian, and the prediction that it was built on: after clipping, with eps
        and v derived again from the clipped x_0.
    """
    prediction, spread = read(
        schedule, xt, t, output, predict=predict, variance=variance, clip=clip
    )
    return p_gaussian(schedule, xt, t, prediction.x0, spread), prediction


def p_gaussian(
    schedule: Schedule, xt: Array, t: Array, x0: Array, variance: Variance
) -> Gaussian:
    """p(x_{t-1} | x_t) of a model that predicts x0 and has this variance there."""
    return _gaussian(q_posterior(schedule, x0, xt, t).mean, variance)


def p_sample(gaussian: Gaussian, t: Array, noise: Array) -> Array:
    """x_{t-1} = mean + sigma noise (algorithm 2, line 4); at t = 0 the mean alone.

    Raises:
        ValueError: if t is not of integers, or a concrete one is negative; a traced one
            gives NaN.
    """
    if not jnp.issubdtype(jnp.result_type(t), jnp.integer):
        raise ValueError(f"a step must be an integer; got {jnp.result_type(t)}")
    steps = concrete(t)
    if steps is not None and np.any(steps < 0):
        raise ValueError(f"a step must not be negative; got {np.min(steps)}")
    t = per_example(jnp.asarray(t), noise)
    sigma = jnp.exp(0.5 * gaussian.log_variance)
    sigma = jnp.where(t > 0, sigma, jnp.where(t == 0, 0.0, jnp.nan))
    return gaussian.mean + sigma * noise


def _gaussian(mean: Array, variance: Variance) -> Gaussian:
    """The Gaussian of this mean, all fields of its shape."""
    return Gaussian(mean, *(jnp.broadcast_to(each, mean.shape) for each in variance))

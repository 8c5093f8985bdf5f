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
from .variances import as_variance
from .variances import fixed_large as fixed_large
from .variances import fixed_small as fixed_small
from .variances import learned as learned
from .variances import learned_range as learned_range


def q_step(schedule: Schedule, x_prev: Array, t: Array, noise: Array) -> Array:
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise (Ho et al. 2020, eq. 2).

    Args:
        schedule: the chain.
        x_prev: x_{t-1}, (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        noise: standard normal, (batch, *data).

    Returns:
        x_t, (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.constant_betas(2, value=0.64))
        >>> x, noise = jnp.ones((1, 1)), jnp.ones((1, 1))
        >>> xt = transitions.q_step(schedule, x, jnp.array(1), noise)
        >>> round(float(xt[0, 0]), 4)  # 0.6 + 0.8
        1.4
    """
    beta = at(schedule.betas, t, x_prev)
    return jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * noise


def q_sample(schedule: Schedule, x0: Array, t: Array, noise: Array) -> Array:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (Ho et al. 2020, eq. 4)

    Args:
        schedule: the chain.
        x0: clean data, (batch, *data), in [-1, 1] for images.
        t: steps in 0..T-1, () or (batch,).
        noise: standard normal, (batch, *data).

    Returns:
        x_t, (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> x0 = jnp.zeros((4, 32, 32, 3))
        >>> t = jnp.array([0, 10, 100, 999])  # a step for each image
        >>> noise = jax.random.normal(jax.random.key(0), x0.shape)
        >>> xt = transitions.q_sample(schedule, x0, t, noise)
        >>> print(np.asarray(xt).std(axis=(1, 2, 3)).round(2))
        [0.01 0.05 0.33 0.99]
    """
    signal = at(schedule.sqrt_alphas_cumprod, t, x0)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return signal * x0 + sigma * noise


def q_mean_variance(schedule: Schedule, x0: Array, t: Array) -> Gaussian:
    """q(x_t | x_0) (Ho et al. 2020, eq. 4).

    Args:
        schedule: the chain.
        x0: clean data, (batch, *data).
        t: steps in 0..T-1, () or (batch,).

    Returns:
        The Gaussian, each field (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.constant_betas(2, value=0.64))
        >>> q = transitions.q_mean_variance(schedule, jnp.ones((1, 1)), jnp.array(0))
        >>> print(np.asarray(q.mean).round(6), np.asarray(q.variance).round(6))
        [[0.6]] [[0.64]]
    """
    log_variance = at(schedule.log_one_minus_alphas_cumprod, t, x0)
    mean = at(schedule.sqrt_alphas_cumprod, t, x0) * x0
    return _gaussian(mean, as_variance(log_variance))


def q_posterior(schedule: Schedule, x0: Array, xt: Array, t: Array) -> Gaussian:
    """q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eqs. 6-7); at t = 0 the point mass at x_0.

    The log-variance at t = 0 is that of t = 1, which keeps it finite.

    Args:
        schedule: the chain.
        x0: clean data, (batch, *data).
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).

    Returns:
        The Gaussian, each field (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> x0, xt = jnp.full((1, 2), 0.5), jnp.zeros((1, 2))
        >>> first = transitions.q_posterior(schedule, x0, xt, jnp.array(0))
        >>> print(first.mean, first.variance)
        [[0.5 0.5]] [[0. 0.]]
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

    Without clipping the mean is eq. 11 of Ho et al. 2020; with it, that of their code.

    Args:
        schedule: the chain.
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        output: a `denoiser.Network`'s for (x_t, t), (batch, *data), or with twice the
            channels.
        predict: as for `denoiser.denoiser`.
        variance: as for `denoiser.denoiser`.
        clip: as for `denoiser.denoiser`.

    Returns:
        The Gaussian, and the prediction that it was built on: after clipping, with eps
        and v derived again from the clipped x_0. Fields are (batch, *data).

    Raises:
        ValueError: if the output fits neither shape, or a concrete t lies outside the
            chain.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> xt, output = jnp.ones((2, 8, 8, 1)), jnp.zeros((2, 8, 8, 1))
        >>> p, said = transitions.p_mean_variance(schedule, xt, jnp.array(100), output)
        >>> p.mean.shape, round(float(said.x0[0, 0, 0, 0]), 4)
        ((2, 8, 8, 1), 1.0569)
    """
    prediction, spread = read(
        schedule, xt, t, output, predict=predict, variance=variance, clip=clip
    )
    return p_gaussian(schedule, xt, t, prediction.x0, spread), prediction


def p_gaussian(
    schedule: Schedule, xt: Array, t: Array, x0: Array, variance: Variance
) -> Gaussian:
    """p(x_{t-1} | x_t) of a model that predicts x0 (Ho et al. 2020, eqs. 1 and 7).

    Args:
        schedule: the chain.
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        x0: the prediction, (batch, *data).
        variance: that of the model there, which broadcasts against the data.

    Returns:
        The Gaussian, each field (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.
    """
    return _gaussian(q_posterior(schedule, x0, xt, t).mean, variance)


def p_sample(gaussian: Gaussian, t: Array, noise: Array) -> Array:
    """x_{t-1} = mean + sigma noise (Ho et al. 2020, algorithm 2, line 4).

    At t = 0 it is the mean alone.

    Args:
        gaussian: p(x_{t-1} | x_t), its fields (batch, *data).
        t: steps, () or (batch,).
        noise: standard normal, (batch, *data).

    Returns:
        x_{t-1}, (batch, *data); NaN at a traced t below 0.

    Raises:
        ValueError: if t is not of integers, or a concrete one is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import gaussians, transitions
        >>> one = jnp.ones((2, 1))
        >>> p = gaussians.Gaussian(one, variance=4 * one, log_variance=jnp.log(4) * one)
        >>> t, noise = jnp.array([0, 5]), jnp.ones((2, 1))
        >>> print(transitions.p_sample(p, t, noise))
        [[1.]
         [3.]]
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

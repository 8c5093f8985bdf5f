"""The objectives of training, per example: shape (batch,), never reduced to a scalar.

Ho et al. 2020 minimise the simple loss (eq. 14); the terms of the variational bound
(eq. 5) and their sum with the simple loss are those of Nichol & Dhariwal 2021. All are
called as (schedule, x0, xt, t, noise, output), x_t being `q_sample` of the others and
output what the network returned for (x_t, t): a partial of each is a `Loss`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from .denoiser import Clip, split_output
from .gaussians import Gaussian, discretized_log_likelihood, kl_divergence
from .parametrisations import Parametrisation, Predict, from_eps
from .schedules import Schedule, lookup
from .transitions import p_mean_variance, q_mean_variance, q_posterior
from .variances import VarianceRule, fixed_large, learned_range

Weight = Callable[[Schedule, Array], Array]  # (schedule, t) -> shape of t
# (schedule, x0, xt, t, noise, output) -> the loss of each example, (batch,)
Loss = Callable[[Schedule, Array, Array, Array, Array, Array], Array]


def simple_loss(
    schedule: Schedule,
    x0: Array,
    xt: Array,
    t: Array,
    noise: Array,
    output: Array,
    *,
    predict: Predict = from_eps,
    weight: Weight | None = None,
) -> Array:
    """Mean squared error of the network's mean part, (batch,) (Ho et al., eq. 14).

    Args:
        predict: what the mean part is, and so what its target is: a `Parametrisation`.
        weight: factor by step, e.g. `min_snr()`; None is 1, the paper's.

    Raises:
        ValueError: if predict has no target, the shapes do not fit, or as `lookup`.
    """
    if not x0.shape == xt.shape == noise.shape:
        raise ValueError(
            "x0, xt and noise must have one shape; "
            f"got {x0.shape}, {xt.shape} and {noise.shape}"
        )
    mean_part, _ = split_output(output, xt)
    target = _parametrisation(predict).target(schedule, x0, t, noise)
    loss = mean_over_data(jnp.square(target - mean_part))
    # Not every target reads a table, which would notice a step outside the chain.
    loss = lookup(jnp.ones_like(schedule.betas), t) * loss
    return loss if weight is None else weight(schedule, t) * loss


def vlb_term(
    schedule: Schedule,
    x0: Array,
    xt: Array,
    t: Array,
    noise: Array,
    output: Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = None,
) -> Array:
    """One term of the variational bound in bits per dimension, (batch,).

    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and at t = 0 the
    decoder's -log p(x_0 | x_1) (eqs. 5 and 13). The sum over all t, and `prior_bpd`, is
    the bound. predict, variance, clip: as for `denoiser.denoiser`; x0 is 8-bit data.
    """
    del noise  # x_t is all that the bound knows of it
    model, _ = p_mean_variance(
        schedule, xt, t, output, predict=predict, variance=variance, clip=clip
    )
    return bound_term(schedule, x0, xt, t, model)


def hybrid_loss(
    schedule: Schedule,
    x0: Array,
    xt: Array,
    t: Array,
    noise: Array,
    output: Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = learned_range,
    weight: Weight | None = None,
    vlb_weight: float | None = None,
) -> Array:
    """simple + vlb_weight vlb, which trains only the variance (L_hybrid, eq. 16).

    The gradient of the bound stops at the mean part, which the simple loss trains.

    Args:
        vlb_weight: of one term in bits/dim. None is T / 1000: the paper weighs the
            whole bound, T times the expectation of a term, with 0.001.
    """
    mean_part, variance_part = split_output(output, xt)
    frozen = jax.lax.stop_gradient(mean_part)
    if variance_part is not None:
        frozen = jnp.concatenate([frozen, variance_part], axis=-1)
    example = (schedule, x0, xt, t, noise)
    vlb = vlb_term(*example, frozen, predict=predict, variance=variance)
    simple = simple_loss(*example, output, predict=predict, weight=weight)
    if vlb_weight is None:
        vlb_weight = schedule.num_steps / 1000
    return simple + vlb_weight * vlb


def prior_bpd(schedule: Schedule, x0: Array) -> Array:
    """KL(q(x_T | x_0) || N(0, I)) in bits per dimension, (batch,); not trainable."""
    zero = jnp.zeros_like(x0)
    standard = Gaussian(zero, variance=jnp.ones_like(x0), log_variance=zero)
    last = q_mean_variance(schedule, x0, jnp.array(schedule.num_steps - 1))
    return _bits(kl_divergence(last, standard))


def bound_term(
    schedule: Schedule, x0: Array, xt: Array, t: Array, model: Gaussian
) -> Array:
    """One term of the bound, (batch,), given p(x_{t-1} | x_t)."""
    truth = q_posterior(schedule, x0, xt, t)
    divergence = _bits(kl_divergence(truth, model))
    decoder = -_bits(discretized_log_likelihood(x0, model))
    return jnp.where(t == 0, decoder, divergence)


def min_snr(gamma: float = 5.0, *, predict: Predict = from_eps) -> Weight:
    """min(SNR, gamma) on the error of x_0 (Hang et al. 2023), for what `predict` reads.

    As a factor of the mean squared error it is min(SNR, gamma) / SNR for eps,
    min(SNR, gamma) for x0 and min(SNR, gamma) / (SNR + 1) for v.
    """
    return _weight(lambda snr: jnp.minimum(1, gamma / snr), predict)


def p2(gamma: float = 1.0, k: float = 1.0, *, predict: Predict = from_eps) -> Weight:
    """1 / (k + SNR)^gamma on the error of eps (Choi et al. 2022, eq. 8)."""
    return _weight(lambda snr: (k + snr) ** -gamma, predict)


def _weight(of_eps: Callable, predict: Predict) -> Weight:
    """The weight of the error in eps as a weight of the error in what predict reads."""
    eps_error = _parametrisation(predict).eps_error
    if eps_error is None:
        raise ValueError(f"a weight needs the eps_error of {predict!r}; got None")

    def weight(schedule: Schedule, t: Array) -> Array:
        # recipm1 is noise over signal: infinite, and the SNR exactly 0, at zero SNR.
        snr = lookup(schedule.sqrt_recipm1_alphas_cumprod, t) ** -2
        return of_eps(snr) * eps_error(snr)

    return weight


def _parametrisation(predict: Predict) -> Parametrisation:
    if not isinstance(predict, Parametrisation):
        raise ValueError(
            "training needs a target: predict must be from_eps, from_x0, from_v or "
            f"another Parametrisation; got {predict!r}"
        )
    return predict


def _bits(nats: Array) -> Array:
    return mean_over_data(nats) / math.log(2)


def mean_over_data(x: Array) -> Array:
    """The mean over all axes but the first."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))

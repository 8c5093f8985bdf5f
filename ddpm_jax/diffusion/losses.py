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

Weight = Callable[[Schedule, Array], Array]
"""(schedule, t) -> a factor of the loss, of the shape of t."""

Loss = Callable[[Schedule, Array, Array, Array, Array, Array], Array]
"""(schedule, x0, xt, t, noise, output) -> the loss of each example, (batch,)."""


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
    """Mean squared error of the network's mean part (Ho et al. 2020, eq. 14).

    Args:
        schedule: the chain.
        x0: clean data, (batch, *data).
        xt: `q_sample` of the others, (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        noise: the noise in xt, (batch, *data).
        output: the network's for (xt, t), (batch, *data), or with twice the channels.
        predict: what the mean part is, and so what its target is: a `Parametrisation`.
        weight: factor by step, e.g. `min_snr()`; None is 1, the paper's.

    Returns:
        The loss of each example, (batch,).

    Raises:
        ValueError: if predict has no target, the shapes do not fit, or as `lookup`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import losses, schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> x0, t = jnp.zeros((2, 8, 8, 1)), jnp.array([10, 500])
        >>> noise = jax.random.normal(jax.random.key(0), x0.shape)
        >>> xt = transitions.q_sample(schedule, x0, t, noise)
        >>> print(losses.simple_loss(schedule, x0, xt, t, noise, output=noise + 0.5))
        [0.25 0.25]
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
    """One term of the variational bound in bits per dimension.

    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and at t = 0 the
    decoder's -log p(x_0 | x_1) (Ho et al. 2020, eqs. 5 and 13). The sum over all t, and
    `prior_bpd`, is the bound.

    Args:
        schedule: the chain.
        x0: 8-bit data in [-1, 1], (batch, *data).
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        noise: not read.
        output: the network's for (xt, t), (batch, *data), or with twice the channels.
        predict: as for `denoiser.denoiser`.
        variance: as for `denoiser.denoiser`.
        clip: as for `denoiser.denoiser`.

    Returns:
        The term of each example in bits/dim, (batch,).

    Raises:
        ValueError: if the output fits neither shape, or a concrete t lies outside the
            chain.

    Examples:
        Predicting the noise exactly leaves no divergence but at t = 0, the decoder:

        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import losses, schedules, transitions
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> x0, t = jnp.ones((2, 8, 8, 1)), jnp.array([0, 500])
        >>> noise = jnp.zeros_like(x0)
        >>> xt = transitions.q_sample(schedule, x0, t, noise)
        >>> small = transitions.fixed_small
        >>> vlb = losses.vlb_term(schedule, x0, xt, t, noise, noise, variance=small)
        >>> print(np.asarray(vlb).round(3))
        [0.51 0.  ]
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
    """simple + vlb_weight vlb, which trains only the variance.

    L_hybrid of Nichol & Dhariwal 2021, eq. 16. The gradient of the bound stops at the
    mean part, which the simple loss trains.

    Args:
        schedule: the chain.
        x0: 8-bit data in [-1, 1], (batch, *data).
        xt: `q_sample` of the others, (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        noise: the noise in xt, (batch, *data).
        output: the network's for (xt, t), with twice the channels of the data.
        predict: what the mean part is: a `Parametrisation`.
        variance: `learned_range`, `learned`, or another.
        weight: of the simple part, by step; None is 1.
        vlb_weight: of one term in bits/dim. None is T / 1000: the paper weighs the
            whole bound, T times the expectation of a term, with 0.001.

    Returns:
        The loss of each example, (batch,).

    Raises:
        ValueError: as `simple_loss`, and if the output has no variance part.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import losses, schedules
        >>> schedule = schedules.make_schedule(schedules.cosine_betas(1000))
        >>> x0, t = jnp.zeros((2, 8, 8, 3)), jnp.array([100, 900])
        >>> xt = noise = jnp.zeros_like(x0)
        >>> output = jnp.zeros((2, 8, 8, 6))  # [eps, variance]
        >>> losses.hybrid_loss(schedule, x0, xt, t, noise, output).shape
        (2,)
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
    """KL(q(x_T | x_0) || N(0, I)) in bits per dimension: L_T of Ho et al. 2020, eq. 5.

    Nothing in it can be trained.

    Args:
        schedule: the chain.
        x0: clean data in [-1, 1], (batch, *data).

    Returns:
        The divergence of each example in bits/dim, (batch,).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import losses, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> losses.prior_bpd(schedule, jnp.ones((2, 8, 8, 1))) < 1e-4
        Array([ True,  True], dtype=bool)
    """
    zero = jnp.zeros_like(x0)
    standard = Gaussian(zero, variance=jnp.ones_like(x0), log_variance=zero)
    last = q_mean_variance(schedule, x0, jnp.array(schedule.num_steps - 1))
    return _bits(kl_divergence(last, standard))


def bound_term(
    schedule: Schedule, x0: Array, xt: Array, t: Array, model: Gaussian
) -> Array:
    """One term of the bound given p(x_{t-1} | x_t) (Ho et al. 2020, eqs. 5 and 13).

    Args:
        schedule: the chain.
        x0: 8-bit data in [-1, 1], (batch, *data).
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        model: p(x_{t-1} | x_t), its fields (batch, *data).

    Returns:
        The term of each example in bits/dim, (batch,).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.
    """
    truth = q_posterior(schedule, x0, xt, t)
    divergence = _bits(kl_divergence(truth, model))
    decoder = -_bits(discretized_log_likelihood(x0, model))
    return jnp.where(t == 0, decoder, divergence)


def min_snr(gamma: float = 5.0, *, predict: Predict = from_eps) -> Weight:
    """min(SNR, gamma) on the error of x_0 (Hang et al. 2023), for what `predict` reads.

    As a factor of the mean squared error it is min(SNR, gamma) / SNR for eps,
    min(SNR, gamma) for x0 and min(SNR, gamma) / (SNR + 1) for v.

    Args:
        gamma: where the SNR is cut; the paper's is 5.
        predict: what the network predicts: a `Parametrisation`.

    Returns:
        (schedule, t) -> the factor, of the shape of t.

    Raises:
        ValueError: if predict is no `Parametrisation`, or has no `eps_error`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import losses, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> weight = losses.min_snr()(schedule, jnp.array([0, 100, 999]))
        >>> print(np.asarray(weight).round(3))
        [0.001 0.586 1.   ]
    """
    return _weight(lambda snr: jnp.minimum(1, gamma / snr), predict)


def p2(gamma: float = 1.0, k: float = 1.0, *, predict: Predict = from_eps) -> Weight:
    """1 / (k + SNR)^gamma on the error of eps (Choi et al. 2022, eq. 8).

    Args:
        gamma: how strongly high SNRs, the small steps, are weighed down; 0 is not at
            all.
        k: keeps the weight of SNR 0 finite.
        predict: what the network predicts: a `Parametrisation`.

    Returns:
        (schedule, t) -> the factor, of the shape of t.

    Raises:
        ValueError: if predict is no `Parametrisation`, or has no `eps_error`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import losses, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> weight = losses.p2()(schedule, jnp.array([0, 100, 999]))
        >>> print(np.asarray(weight).round(3))
        [0.    0.105 1.   ]
    """
    return _weight(lambda snr: (k + snr) ** -gamma, predict)


def _weight(of_eps: Callable[[Array], Array], predict: Predict) -> Weight:
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
    """The mean over all axes but the first.

    Args:
        x: (batch, *data).

    Returns:
        The mean of each example, (batch,).
    """
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))

"""Diagonal Gaussians: divergence and the likelihood of 8-bit data."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Gaussian(NamedTuple):
    """A normal distribution with diagonal covariance; fields broadcast together.

    Attributes:
        mean: (batch, *data), as the others where this package makes them.
        variance: of each coordinate, at least 0.
        log_variance: its natural logarithm; finite where a variance of 0 stands for its
            limit.
    """

    mean: Array
    variance: Array
    log_variance: Array


def kl_divergence(p: Gaussian, q: Gaussian) -> Array:
    """KL(p || q) of each coordinate, in nats (the terms of Ho et al. 2020, eq. 5).

    Reads means and log-variances.

    Args:
        p: fields of shape (batch, *data).
        q: fields that broadcast against them.

    Returns:
        The divergence of each coordinate, (batch, *data), at least 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion.gaussians import Gaussian, kl_divergence
        >>> zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
        >>> p = Gaussian(jnp.array([[0.0, 3.0]]), variance=one, log_variance=zero)
        >>> q = Gaussian(zero, variance=one, log_variance=zero)
        >>> print(kl_divergence(p, q))
        [[0.  4.5]]
    """
    ratio = p.log_variance - q.log_variance
    scaled = jnp.square(p.mean - q.mean) * jnp.exp(-q.log_variance)
    return 0.5 * (jnp.expm1(ratio) - ratio + scaled)


def discretized_log_likelihood(x: Array, gaussian: Gaussian) -> Array:
    """log p(x) in nats of 8-bit data under a Gaussian cut into 256 bins.

    Ho et al. 2020, eq. 13: the bin of x has half-width 1/255, the first bin reaches to
    minus infinity and the last to infinity. As in the reference code, the normal
    cumulative distribution is its tanh approximation, here in the equal form
    Phi(u) = sigmoid(2 sqrt(2/pi) (u + 0.044715 u^3)) whose tails do not cancel, and
    probabilities are at least 1e-12.

    Args:
        x: data in [-1, 1], each of the 256 values k / 127.5 - 1, (batch, *data).
        gaussian: reads mean and log_variance, which broadcast against x.

    Returns:
        The log-likelihood of each coordinate in nats, (batch, *data), at most 0.

    Examples:
        The likelihoods of all 256 values sum to 1:

        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import gaussians
        >>> x = jnp.arange(256) / 127.5 - 1
        >>> flat = jnp.ones_like(x)
        >>> normal = gaussians.Gaussian(0.3 * flat, 0.01 * flat, jnp.log(0.01) * flat)
        >>> log_p = gaussians.discretized_log_likelihood(x, normal)
        >>> round(float(jnp.exp(log_p).sum()), 4)
        1.0
    """
    # Where a network's own variance is far below a bin, exp and cube would overflow.
    inverse_scale = jnp.exp(-0.5 * jnp.maximum(gaussian.log_variance, -100.0))
    upper = _normal_logit((x - gaussian.mean + 1 / 255) * inverse_scale)
    lower = _normal_logit((x - gaussian.mean - 1 / 255) * inverse_scale)
    # P(lower < u < upper) by the tail that both ends share, so that 1 - 1 never occurs.
    flip = lower > 0
    most, least = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    inside = jax.nn.sigmoid(most) - jax.nn.sigmoid(least)
    log_inside = jnp.log(jnp.maximum(inside, 1e-12))
    log_below = jnp.maximum(jax.nn.log_sigmoid(upper), math.log(1e-12))
    log_above = jnp.maximum(jax.nn.log_sigmoid(-lower), math.log(1e-12))
    return jnp.where(x < -0.999, log_below, jnp.where(x > 0.999, log_above, log_inside))


def _normal_logit(u: Array) -> Array:
    """The log-odds of the tanh approximation of the normal distribution function."""
    u = jnp.clip(u, -30.0, 30.0)  # beyond, the least probability of 1e-12 rules
    return 2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)

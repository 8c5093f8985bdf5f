"""The variational bound on the likelihood of data, in bits per dimension."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .denoiser import Denoiser, Network, as_denoiser
from .losses import bound_term, mean_over_data, prior_bpd
from .noise import Key, draw_noise, fold_in, threefry_key
from .samplers.base import floating
from .schedules import Schedule, concrete
from .transitions import p_gaussian, q_sample


class BitsPerDim(NamedTuple):
    """The bound and its parts; column t of a (batch, T) array belongs to step t.

    Attributes:
        total: bits/dim, (batch,): prior + the sum of terms.
        prior: KL(q(x_T | x_0) || N(0, I)) in bits/dim, (batch,).
        terms: bits/dim, (batch, T); column 0 is the decoder's.
        mse: mean squared error of the predicted noise, (batch, T).
        x0_mse: that of the predicted x_0, (batch, T).
    """

    total: Array
    prior: Array
    terms: Array
    mse: Array
    x0_mse: Array


class StepTerms(NamedTuple):
    """What one step adds to the bound.

    Attributes:
        term: bits/dim, (batch,).
        mse: mean squared error of the predicted noise, (batch,).
        x0_mse: that of the predicted x_0, (batch,).
    """

    term: Array
    mse: Array
    x0_mse: Array


def bits_per_dim(
    key: Key, denoise: Denoiser | Network, schedule: Schedule, x0: Array
) -> BitsPerDim:
    """An estimate, unbiased over the noise, of the bound on -log2 p(x_0) / dim.

    Ho et al. 2020, eq. 5. One scan over all T steps, each with noise of its own,
    compiled once for the same functions as `samplers.sample` is. On a respaced schedule
    it is the bound of the respaced chain. Consumes `key`.

    Args:
        key: one key, or (batch,) of them, one per example; or a seed.
        denoise: as `samplers.sample` takes it. The reference evaluations clip.
        schedule: the chain.
        x0: 8-bit data in [-1, 1], (batch, *data).

    Returns:
        The bound in bits/dim, and its parts.

    Raises:
        ValueError: if concrete data lie outside [-1, 1], or the denoiser cannot work on
            the schedule.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import likelihood, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(50, end=0.3))
        >>> def network(x, t):  # right for data of the standard normal distribution
        ...     return schedule.sqrt_one_minus_alphas_cumprod[t][:, None] * x
        >>> x0 = jnp.array([[-1.0, 0.0, 1.0]])
        >>> bound = likelihood.bits_per_dim(0, network, schedule, x0)
        >>> bound.total.shape, bound.terms.shape, bool(bound.total[0] > 0)
        ((1,), (1, 50), True)
    """
    denoise = as_denoiser(denoise, schedule)
    data = concrete(x0)
    if data is not None and not -1 <= data.min() <= data.max() <= 1:
        raise ValueError(
            f"data must lie in [-1, 1]; got values {data.min():g}..{data.max():g}"
        )
    x0 = floating(schedule, x0)
    bound: BitsPerDim = _whole_bound(threefry_key(key), denoise, schedule, x0)
    return bound


@jax.jit
def _whole_bound(
    key: Array, denoise: Denoiser, schedule: Schedule, x0: Array
) -> BitsPerDim:
    def body(_: None, t: Array) -> tuple[None, StepTerms]:
        noise = draw_noise(fold_in(key, t), x0)
        return None, step_terms(denoise, schedule, x0, t, noise)

    _, steps = jax.lax.scan(body, None, jnp.arange(schedule.num_steps))
    terms, mse, x0_mse = (x.T for x in steps)
    prior = prior_bpd(schedule, x0)
    return BitsPerDim(prior + terms.sum(1), prior, terms, mse, x0_mse)


def step_terms(
    denoise: Denoiser | Network, schedule: Schedule, x0: Array, t: Array, noise: Array
) -> StepTerms:
    """The bound's term at step t, with the noise that makes x_t given.

    Ho et al. 2020, eqs. 5 and 13.

    Args:
        denoise: as `samplers.sample` takes it.
        schedule: the chain.
        x0: 8-bit data in [-1, 1], (batch, *data).
        t: a step in 0..T-1, ().
        noise: standard normal, (batch, *data).

    Returns:
        The term and the errors, (batch,) each.

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.
    """
    xt = q_sample(schedule, x0, t, noise)
    estimate = as_denoiser(denoise)(schedule, xt, t)
    model = p_gaussian(schedule, xt, t, estimate.x0, estimate.variance)
    return StepTerms(
        term=bound_term(schedule, x0, xt, t, model),
        mse=mean_over_data(jnp.square(estimate.eps - noise)),
        x0_mse=mean_over_data(jnp.square(estimate.x0 - x0)),
    )

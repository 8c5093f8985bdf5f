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
    """The bound and its parts; column t of a (batch, T) array belongs to step t."""

    total: Array  # (batch,) bits/dim: prior + the sum of terms
    prior: Array  # (batch,) bits/dim, KL(q(x_T | x_0) || N(0, I))
    terms: Array  # (batch, T) bits/dim; column 0 is the decoder's
    mse: Array  # (batch, T) mean squared error of the predicted noise
    x0_mse: Array  # (batch, T) of the predicted x_0


class StepTerms(NamedTuple):
    """What one step adds to the bound, (batch,) each."""

    term: Array
    mse: Array
    x0_mse: Array


def bits_per_dim(
    key: Key, denoise: Denoiser | Network, schedule: Schedule, x0: Array
) -> BitsPerDim:
    """An estimate, unbiased over the noise, of the bound on -log2 p(x_0) / dim (eq. 5).

    One scan over all T steps, each with noise of its own, compiled once for the same
    functions as `samplers.sample` is. On a respaced schedule it is the bound of the
    respaced chain. Consumes `key`.

    Args:
        key, denoise: as `samplers.sample` takes them. The reference evaluations clip.
        x0: (batch, *data), 8-bit data in [-1, 1].

    Raises:
        ValueError: if concrete data lie outside [-1, 1], or the denoiser cannot work on
            the schedule.
    """
    denoise = as_denoiser(denoise, schedule)
    data = concrete(x0)
    if data is not None and not -1 <= data.min() <= data.max() <= 1:
        raise ValueError(
            f"data must lie in [-1, 1]; got values {data.min():g}..{data.max():g}"
        )
    return _whole_bound(threefry_key(key), denoise, schedule, floating(schedule, x0))


@jax.jit
def _whole_bound(
    key: Array, denoise: Denoiser, schedule: Schedule, x0: Array
) -> BitsPerDim:
    def body(_, t: Array) -> tuple[None, StepTerms]:
        noise = draw_noise(fold_in(key, t), x0)
        return None, step_terms(denoise, schedule, x0, t, noise)

    _, steps = jax.lax.scan(body, None, jnp.arange(schedule.num_steps))
    terms, mse, x0_mse = (x.T for x in steps)
    prior = prior_bpd(schedule, x0)
    return BitsPerDim(prior + terms.sum(1), prior, terms, mse, x0_mse)


def step_terms(
    denoise: Denoiser | Network, schedule: Schedule, x0: Array, t: Array, noise: Array
) -> StepTerms:
    """The bound's term at step t, a scalar, with the noise that makes x_t given."""
    xt = q_sample(schedule, x0, t, noise)
    estimate = as_denoiser(denoise)(schedule, xt, t)
    model = p_gaussian(schedule, xt, t, estimate.x0, estimate.variance)
    return StepTerms(
        term=bound_term(schedule, x0, xt, t, model),
        mse=mean_over_data(jnp.square(estimate.eps - noise)),
        x0_mse=mean_over_data(jnp.square(estimate.x0 - x0)),
    )

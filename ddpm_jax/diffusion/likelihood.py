"""The variational bound on the likelihood of data, in bits per dimension."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.bound import Bound, as_pytree
from ddpm_jax.diffusion.guidance import clip_static
from ddpm_jax.diffusion.losses import bound_term, mean_over_data, prior_bpd
from ddpm_jax.diffusion.noise import draw_noise, fold_in
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.stepping import Denoise, floating
from ddpm_jax.diffusion.transitions import (
    Clip,
    Predict,
    VarianceRule,
    fixed_large,
    from_eps,
    p_mean_variance,
    q_sample,
)

_CLIP = clip_static()


class BitsPerDim(NamedTuple):
    """The bound and its parts; column t of a (batch, T) array belongs to step t."""

    total: jax.Array  # (batch,) bits/dim: prior + the sum of terms
    prior: jax.Array  # (batch,) bits/dim, KL(q(x_T | x_0) || N(0, I))
    terms: jax.Array  # (batch, T) bits/dim; column 0 is the decoder's
    mse: jax.Array  # (batch, T) mean squared error of the predicted noise
    x0_mse: jax.Array  # (batch, T) of the predicted x_0


class StepTerms(NamedTuple):
    """What one step adds to the bound, (batch,) each."""

    term: jax.Array
    mse: jax.Array
    x0_mse: jax.Array


def bits_per_dim(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = _CLIP,
) -> BitsPerDim:
    """An estimate, unbiased over the noise, of the bound on -log2 p(x_0) / dim (eq. 5).

    One scan over all T steps, each with noise of its own, compiled once for the same
    functions as `samplers.sample` is. On a respaced schedule it is the bound of the
    respaced chain. Consumes `key`.

    Args:
        key: one key, or (batch,) keys, one per example: then an example's estimate does
            not depend on the batch that it stands in.
        denoise: (x, t) -> output.
        x0: (batch, *data), 8-bit data in [-1, 1].
        clip: of the predicted x_0; the reference evaluations clip.
    """

    clip = None if clip is None else as_pytree(clip)
    terms = Bound(step_terms, predict=predict, variance=variance, clip=clip)
    return _whole_bound(
        key, as_pytree(denoise), schedule, floating(schedule, x0), terms
    )


@jax.jit
def _whole_bound(
    key: jax.Array, denoise: Denoise, schedule: Schedule, x0: jax.Array, terms_of: Bound
) -> BitsPerDim:
    def body(_, t: jax.Array) -> tuple[None, StepTerms]:
        noise = draw_noise(fold_in(key, t), x0)
        return None, terms_of(denoise, schedule, x0, t, noise)

    _, steps = jax.lax.scan(body, None, jnp.arange(schedule.num_steps))
    terms, mse, x0_mse = (x.T for x in steps)
    prior = prior_bpd(schedule, x0)
    return BitsPerDim(prior + terms.sum(1), prior, terms, mse, x0_mse)


def step_terms(
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = _CLIP,
) -> StepTerms:
    """The bound's term at step t, a scalar, with the noise that makes x_t given."""
    t = jnp.full(x0.shape[:1], t)
    xt = q_sample(schedule, x0, t, noise)
    output = denoise(xt, schedule.timesteps[t])
    model, prediction = p_mean_variance(
        schedule, xt, t, output, predict=predict, variance=variance, clip=clip
    )
    return StepTerms(
        term=bound_term(schedule, x0, xt, t, model),
        mse=mean_over_data(jnp.square(prediction.eps - noise)),
        x0_mse=mean_over_data(jnp.square(prediction.x0 - x0)),
    )

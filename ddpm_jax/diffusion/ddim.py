"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.bound import Bound, as_pytree
from ddpm_jax.diffusion.guidance import clip_static
from ddpm_jax.diffusion.noise import draw_noise
from ddpm_jax.diffusion.schedules import Schedule, at
from ddpm_jax.diffusion.stepping import (
    Denoise,
    Sampler,
    SampleState,
    StepInfo,
    ask,
    before,
    check_prediction,
    floating,
    read,
    start,
)
from ddpm_jax.diffusion.transitions import (
    Clip,
    Predict,
    Prediction,
    from_eps,
    from_x0,
    q_sample,
)

_CLIP = clip_static()


def ddim(
    *,
    eta: float | jax.Array = 0.0,
    rederive: bool = True,
    predict: Predict = from_eps,
    clip: Clip | None = _CLIP,
) -> Sampler:
    """DDIM: the sampler with the marginals of DDPM and a noise level of one's choice.

    On a respaced schedule it takes the short chain; the last step goes to
    alpha_bar = 1, the clean data. A learned variance is ignored.

    Args:
        eta: 0 is deterministic, 1 has the variance of ancestral sampling
            (`fixed_small`). A number in [0, 1]; may be traced.
        rederive: after clipping x_0, compute eps again from it, as OpenAI's code does;
            diffusers keeps the network's eps unless asked. Without clipping, no matter.
        predict: what the network's output is: `from_eps`, `from_x0` or `from_v`.
        clip: limits the predicted x_0; None is the original DDIM code.

    Raises:
        ValueError: if a concrete eta lies outside [0, 1].
    """
    _check_eta(eta)
    # A deterministic sampler draws no noise.
    drawn = isinstance(eta, jax.core.Tracer) or bool(eta)
    step = Bound(
        _step,
        eta=jnp.asarray(eta, float) if drawn else None,
        rederive=rederive,
        predict=predict,
        clip=clip,
    )
    return Sampler(Bound(start, predict=predict), step)


def ddim_update(
    schedule: Schedule,
    xt: jax.Array,
    i: jax.Array,
    output: jax.Array,
    noise: jax.Array | None = None,
    *,
    eta: float | jax.Array = 0.0,
    rederive: bool = True,
    predict: Predict = from_eps,
    clip: Clip | None = _CLIP,
) -> tuple[jax.Array, StepInfo]:
    """x at index i - 1 from the output at (x_t, index i) (eq. 12).

        x_{i-1} = sqrt(alpha_bar_{i-1}) x_0 + sqrt(1 - alpha_bar_{i-1} - sigma^2) eps
                  + sigma noise,    sigma = eta sqrt(beta~_i)

    At i = 0 it is x_0. Without a noise, eta must be 0.

    Raises:
        ValueError: if it is not, or a concrete eta lies outside [0, 1].
    """
    _check_eta(eta)
    if noise is None and (isinstance(eta, jax.core.Tracer) or eta != 0):
        raise ValueError(f"with eta > 0 there must be a noise; got eta={eta} alone")
    said = _limited(schedule, xt, i, output, rederive, predict, clip)
    signal = jnp.sqrt(at(schedule.alphas_cumprod_prev, i, xt))
    sigma_prev = before(schedule.sqrt_one_minus_alphas_cumprod, 0.0, i, xt)
    if noise is None:
        return signal * said.x0 + sigma_prev * said.eps, StepInfo(said.x0)
    # 1 - alpha_bar - sigma^2 cancels in float32. It is linear in eta^2, and at eta = 1
    # it is the share of x_t's noise in the posterior mean: both ends are tables.
    shared = at(schedule.posterior_mean_coef2, i, xt) * at(
        schedule.sqrt_one_minus_alphas_cumprod, i, xt
    )
    kept = jnp.square(eta * shared) + (1 - jnp.square(eta)) * jnp.square(sigma_prev)
    sigma = eta * jnp.sqrt(at(schedule.posterior_variance, i, xt))
    # At i = 0 nothing is kept, and there the root has no slope in eta.
    kept = jnp.where(kept > 0, jnp.sqrt(jnp.where(kept > 0, kept, 1.0)), 0.0)
    x = signal * said.x0 + kept * said.eps + sigma * noise
    return x, StepInfo(said.x0)


def ddim_invert(
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    *,
    predict: Predict = from_eps,
    clip: Clip | None = None,
) -> jax.Array:
    """The latent x_T from which `ddim(clip=None)` leads back to x0 (section 4.3).

    The deterministic sampler walked up the chain, each step with the eps of the point
    that it leaves: exact in the limit of many steps. It asks the network T times, as
    sampling does; the first time with the image itself, told the first step.
    Compiled once for the same functions, as `sample` is.

    Raises:
        ValueError: if `predict` cannot work on the schedule.
    """
    check_prediction(schedule, predict)
    clip = None if clip is None else as_pytree(clip)
    x0 = floating(schedule, x0)
    return _invert(as_pytree(denoise), schedule, x0, clip, predict=predict)


@partial(jax.jit, static_argnames="predict")
def _invert(
    denoise: Denoise,
    schedule: Schedule,
    x0: jax.Array,
    clip: Clip | None,
    *,
    predict: Predict,
) -> jax.Array:
    def body(x: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        # From index i - 1 to i; the clean image counts as index 0 for the network.
        here = jnp.maximum(i - 1, 0)
        output = ask(denoise, schedule, x, here)
        said = _limited(schedule, x, here, output, True, predict, clip)
        up = q_sample(schedule, jnp.where(i == 0, x, said.x0), i, said.eps)
        return up, None

    latent, _ = jax.lax.scan(body, x0, jnp.arange(schedule.num_steps))
    return latent


def _check_eta(eta: float | jax.Array) -> None:
    if not isinstance(eta, jax.core.Tracer) and not 0 <= np.asarray(eta) <= 1:
        raise ValueError(f"eta must lie in [0, 1]; got {eta}")


def _limited(
    schedule: Schedule,
    xt: jax.Array,
    i: jax.Array,
    output: jax.Array,
    rederive: bool,
    predict: Predict,
    clip: Clip | None,
) -> Prediction:
    prediction = read(schedule, xt, i, output, predict=predict, clip=clip)
    if rederive and clip is not None:
        return from_x0(schedule, xt, i, prediction.x0)
    return prediction


def _step(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    state: SampleState,
    i: jax.Array,
    *,
    eta: jax.Array | None,
    rederive: bool,
    predict: Predict,
    clip: Clip | None,
) -> tuple[SampleState, StepInfo]:
    output = ask(denoise, schedule, state.x, i)
    x, info = ddim_update(
        schedule,
        state.x,
        i,
        output,
        None if eta is None else draw_noise(key, state.x),
        eta=0.0 if eta is None else eta,
        rederive=rederive,
        predict=predict,
        clip=clip,
    )
    return SampleState(x), info

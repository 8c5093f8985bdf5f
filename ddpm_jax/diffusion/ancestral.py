"""Ancestral sampling (Ho et al. 2020, algorithm 2)."""

import jax

from ddpm_jax.diffusion.bound import Bound
from ddpm_jax.diffusion.guidance import clip_static
from ddpm_jax.diffusion.noise import draw_noise
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.stepping import (
    Denoise,
    Sampler,
    SampleState,
    StepInfo,
    ask,
    start,
)
from ddpm_jax.diffusion.transitions import (
    Clip,
    Predict,
    VarianceRule,
    fixed_large,
    from_eps,
    p_mean_variance,
    p_sample,
)

_CLIP = clip_static()


def ddpm(
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = _CLIP,
) -> Sampler:
    """Ancestral sampling: x_{t-1} ~ p(x_{t-1} | x_t), and the mean at t = 0.

    On a respaced schedule it is the sampler of Improved DDPM; with `fixed_large` there,
    the one that the DDIM paper calls sigma-hat.

    Args:
        predict: what the network's output is: `from_eps`, `from_x0` or `from_v`.
        variance: `fixed_small`, `fixed_large`, `learned` or `learned_range`.
        clip: limits the predicted x_0, as the reference loops do; None samples
            algorithm 2 as printed.
    """
    step = Bound(_step, predict=predict, variance=variance, clip=clip)
    return Sampler(Bound(start, predict=predict), step)


def ddpm_update(
    schedule: Schedule,
    xt: jax.Array,
    i: jax.Array,
    output: jax.Array,
    noise: jax.Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = _CLIP,
) -> tuple[jax.Array, StepInfo]:
    """x_{t-1} from the output at (x_t, index i) and a standard normal noise."""
    gaussian, prediction = p_mean_variance(
        schedule, xt, i, output, predict=predict, variance=variance, clip=clip
    )
    return p_sample(gaussian, i, noise), StepInfo(prediction.x0)


def _step(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    state: SampleState,
    i: jax.Array,
    *,
    predict: Predict,
    variance: VarianceRule,
    clip: Clip | None,
) -> tuple[SampleState, StepInfo]:
    output = ask(denoise, schedule, state.x, i)
    x, info = ddpm_update(
        schedule,
        state.x,
        i,
        output,
        draw_noise(key, state.x),
        predict=predict,
        variance=variance,
        clip=clip,
    )
    return SampleState(x), info

"""UniPC: a predictor and a corrector for one network call (Zhao et al. 2023)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.bound import Bound
from ddpm_jax.diffusion.dpm_solver import dpm_solver_pp_update, final_order
from ddpm_jax.diffusion.schedules import Schedule, at
from ddpm_jax.diffusion.stepping import (
    Denoise,
    Sampler,
    StepInfo,
    ask,
    check_prediction,
    read,
    suits,
)
from ddpm_jax.diffusion.transitions import Clip, Predict, from_eps


class UnipcState(NamedTuple):
    """A predicted sample, and what corrects it once the network has seen it."""

    x: jax.Array
    base: jax.Array  # the corrected sample at index i + 1
    past: tuple[jax.Array, ...]  # the x_0 predicted at indices i + 1 and i + 2
    known: jax.Array  # () int32: how many of them there are


def unipc(
    *,
    lower_order_final: bool = True,
    predict: Predict = from_eps,
    clip: Clip | None = None,
) -> Sampler:
    """UniPC of order 2 on predictions of x_0, with B(h) = exp(h) - 1 ("bh2").

    Its predictor is DPM-Solver++(2M); the corrector uses the prediction at the point
    reached to take the step again, which the next network call does not repeat.

    Args:
        lower_order_final: lower the order of the step into index 0 to 1, of predictor
            and corrector, as the authors' code does. The step to clean data always has
            order 1.
        predict: what the network's output is: `from_eps`, `from_x0` or `from_v`.
        clip: limits the predicted x_0.
    """
    step = Bound(_step, lower_order_final=lower_order_final, predict=predict, clip=clip)
    return Sampler(Bound(_start, predict=predict), step)


def unipc_correct(
    schedule: Schedule,
    base: jax.Array,
    i: jax.Array,
    x0s: tuple[jax.Array, jax.Array, jax.Array],
    *,
    order: int | jax.Array = 2,
) -> jax.Array:
    """x at index i from `base` at index i + 1 and the x_0 predicted at i, i + 1, i + 2.

    Args:
        i: a scalar index in 0..T-2.
        x0s: the newest first; order 1 does not read the last.
    """
    last = schedule.num_steps - 1
    above, second = jnp.minimum(i + 1, last), jnp.minimum(i + 2, last)
    level = schedule.sqrt_recipm1_alphas_cumprod  # sigma / alpha = exp(-lambda)
    decay = level[i] / level[above]  # exp(-h), the step being h long in lambda
    h, gain = -jnp.log(decay), 1 - decay
    ratio = jnp.log(level[second] / level[above]) / h
    b1 = (1 - gain / h) / gain
    b2 = (1 - 2 * b1 * gain / h) / gain
    older = jnp.where(order == 2, (b1 - b2) / (1 + ratio), 0.0)
    newer = jnp.where(order == 2, b1 - older, 0.5)
    older = jnp.where(order == 2, older / ratio, 0.0)
    x0 = x0s[1] + newer * (x0s[0] - x0s[1]) + older * (x0s[1] - x0s[2])
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, i, base)
    sigma_above = at(schedule.sqrt_one_minus_alphas_cumprod, above, base)
    signal = at(schedule.sqrt_alphas_cumprod, i, base)
    return sigma / sigma_above * base + signal * gain * x0


def _start(schedule: Schedule, x: jax.Array, *, predict: Predict) -> UnipcState:
    check_prediction(schedule, predict)
    zeros = jnp.zeros_like(x)
    return UnipcState(x, x, (zeros, zeros), jnp.zeros((), jnp.int32))


@suits("logsnr")
def _step(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    state: UnipcState,
    i: jax.Array,
    *,
    lower_order_final: bool,
    predict: Predict,
    clip: Clip | None,
) -> tuple[UnipcState, StepInfo]:
    del key  # deterministic
    output = ask(denoise, schedule, state.x, i)
    x0 = read(schedule, state.x, i, output, predict=predict, clip=clip).x0
    newest, oldest = state.past
    taken = final_order(i + 1, 2, lower=lower_order_final)  # by the step that led here
    corrected = unipc_correct(
        schedule,
        state.base,
        i,
        (x0, newest, oldest),
        order=jnp.minimum(jnp.minimum(state.known, 2), taken),
    )
    base = jnp.where(state.known == 0, state.x, corrected)
    ending = final_order(i, 2, lower=lower_order_final)
    order = jnp.minimum(jnp.minimum(2, state.known + 1), ending)
    x = dpm_solver_pp_update(schedule, base, i, (x0, newest), order=order)
    return UnipcState(x, base, (x0, newest), state.known + 1), StepInfo(x0)

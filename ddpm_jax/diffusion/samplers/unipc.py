"""UniPC: a predictor and a corrector for one network call (Zhao et al. 2023)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure
from ..schedules import Schedule, at
from .base import Sampler, one_call, suits
from .dpm_solver import allowed_order, dpm_solver_pp_update, multistep_start, remember


class UnipcState(NamedTuple):
    """A predicted sample, and what corrects it once the network has seen it."""

    x: Array
    past: tuple[Array, ...]  # the x_0 predicted at indices i + 1 and i + 2
    known: Array  # () int32: how many of them there are
    base: Array  # the corrected sample at index i + 1


def unipc(*, lower_order_final: bool = True) -> Sampler:
    """UniPC of order 2 on predictions of x_0, with B(h) = exp(h) - 1 ("bh2").

    Its predictor is DPM-Solver++(2M); the corrector uses the prediction at the point
    reached to take the step again, which the next network call does not repeat.

    Args:
        lower_order_final: lower the order of the step into index 0 to 1, of predictor
            and corrector, as the authors' code does; that to clean data always has 1.
    """
    update = Closure(_update, lower_order_final=lower_order_final)
    return one_call(update, stochastic=False, init=_start)


def unipc_correct(
    schedule: Schedule,
    base: Array,
    i: Array,
    x0s: tuple[Array, Array, Array],
    *,
    order: int | Array = 2,
) -> Array:
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


def _start(schedule: Schedule, x: Array) -> UnipcState:
    return UnipcState(*multistep_start(schedule, x, order=3), base=x)


@suits("logsnr")
def _update(schedule, state, i, estimate, noise, *, lower_order_final):
    del noise
    x0s = (estimate.x0, *state.past)
    order = allowed_order(i + 1, state.known, 2, lower=lower_order_final)
    base = state.x
    if schedule.num_steps > 1:
        # No step led to the first index, whose level above may make NaN of a gradient.
        index = jnp.clip(i, 0, schedule.num_steps - 2)
        corrected = unipc_correct(schedule, state.base, index, x0s, order=order)
        base = jnp.where(state.known == 0, state.x, corrected)
    order = allowed_order(i, state.known + 1, 2, lower=lower_order_final)
    x = dpm_solver_pp_update(
        schedule, base, i, estimate, past=state.past[:1], order=order
    )
    return remember(state, x, estimate.x0)._replace(base=base)

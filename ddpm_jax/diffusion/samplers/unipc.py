"""UniPC: a predictor and a corrector for one network call (Zhao et al. 2023)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure
from ..denoiser import Estimate
from ..schedules import Schedule, at
from .base import Sampler, one_call, suits
from .dpm_solver import allowed_order, dpm_solver_pp_update, multistep_start, remember


class UnipcState(NamedTuple):
    """A predicted sample, and what corrects it once the network has seen it.

    Attributes:
        x: the current sample, (batch, *data).
        past: the x_0 predicted at indices i + 1 and i + 2, (batch, *data) each.
        known: how many of them there are, () int32.
        base: the corrected sample at index i + 1, (batch, *data).
    """

    x: Array
    past: tuple[Array, ...]
    known: Array
    base: Array


def unipc(*, lower_order_final: bool = True) -> Sampler:
    """UniPC of order 2 on predictions of x_0, with B(h) = exp(h) - 1 ("bh2").

    Zhao et al. 2023. Its predictor is DPM-Solver++(2M); the corrector uses the
    prediction at the point reached to take the step again, which the next network call
    does not repeat.

    Args:
        lower_order_final: lower the order of the step into index 0 to 1, of predictor
            and corrector, as the authors' code does; that to clean data always has 1.

    Returns:
        The sampler; T network calls.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> table = schedules.make_schedule(betas).sqrt_one_minus_alphas_cumprod
        >>> def network(x, t):  # right for standard normal data; t lies between steps
        ...     return jnp.interp(t, jnp.arange(1000), table)[:, None] * x
        >>> positions = solver_spacing.log_snr_positions(betas, 20)
        >>> schedule = solver_spacing.interpolated_schedule(betas, positions)
        >>> x = samplers.sample(
        ...     0, network, schedule, (5000, 1), sampler=samplers.unipc()
        ... )
        >>> print(f"{jnp.std(x):.1f}")
        1.0
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
    """x at index i taken again, now that x_0 is known there (Zhao et al. 2023).

    Args:
        schedule: the chain.
        base: the corrected x at index i + 1, (batch, *data).
        i: an index in 0..T-2, ().
        x0s: the x_0 predicted at i, i + 1 and i + 2, (batch, *data) each; order 1 does
            not read the last.
        order: 1 or 2; may be traced, ().

    Returns:
        x_i, (batch, *data).

    Raises:
        ValueError: if a concrete i lies outside the chain, or i is not of integers.
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
def _update(
    schedule: Schedule,
    state: UnipcState,
    i: Array,
    estimate: Estimate,
    noise: None,
    *,
    lower_order_final: bool,
) -> UnipcState:
    del noise
    first, second = state.past
    x0s = (estimate.x0, first, second)
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
    after: UnipcState = remember(state, x, estimate.x0)
    return after._replace(base=base)

"""Heun's method of Karras et al. 2022 on the discrete chain (algorithms 1 and 2).

That paper integrates dy / dsigma = (y - D(y)) / sigma for y = x / alpha, D being the
prediction of x_0 and sigma the noise scale of y. With r = sigma' / sigma < 1 the step
of order 2 from sigma to sigma' is

    y' = r y + (1 - r) (D_0 + (D_1 - D_0) / (2 r)),

D_0 predicted at y and D_1 at the end of the Euler step y' = r y + (1 - r) D_0: a form
in which nothing large cancels. Two network calls a step, one at the last, Euler's to
sigma = 0: 2 T - 1 in all. What goes in and comes out is x, not y.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..closures import Closure
from ..denoiser import Denoiser
from ..noise import draw_noise
from ..schedules import Schedule, check_signal, lookup
from .base import Sampler, SampleState, StepInfo, before, suits


def heun(
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    trained_on: Schedule | None = None,
) -> Sampler:
    """EDM's sampler of order 2 (Karras et al. 2022, algorithms 1 and 2).

    Deterministic or, with churn > 0, stochastic. A denoiser is asked at chains of one
    entry, with the signal and noise scales and the timestep alone: no `predict` of
    one's own may read another table.

    Args:
        churn: S_churn, noise added per chain: each step first raises sigma by the
            factor 1 + min(churn / T, sqrt(2) - 1), but not beyond the last sigma.
        churn_range: S_tmin and S_tmax, the sigmas between which that is done.
        churn_noise: S_noise, the scale of the noise added.
        trained_on: read with churn alone. The network is told the fractional step at
            which log alpha, interpolated in this schedule, reaches the raised sigma:
            that of the training, where the chain is respaced; None is the chain.

    Returns:
        The sampler; 2 T - 1 network calls.

    Raises:
        ValueError: if churn is negative, or, at the start of sampling, if the schedule
            has zero terminal SNR, where sigma is infinite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> table = schedules.make_schedule(betas).sqrt_one_minus_alphas_cumprod
        >>> def network(x, t):  # right for standard normal data; t lies between steps
        ...     return jnp.interp(t, jnp.arange(1000), table)[:, None] * x
        >>> positions = solver_spacing.heun_positions(betas, 20)
        >>> schedule = solver_spacing.interpolated_schedule(betas, positions)
        >>> x = samplers.sample(
        ...     0, network, schedule, (5000, 1), sampler=samplers.heun()
        ... )
        >>> print(f"{jnp.std(x):.1f}")
        1.0
    """
    if churn < 0:
        raise ValueError(f"churn must not be negative; got {churn}")
    churning = Closure(
        churned,
        churn=float(churn),
        churn_range=tuple(map(float, churn_range)),
        churn_noise=float(churn_noise),
        trained_on=trained_on,
    )
    return Sampler(_start, Closure(_step, churning=churning if churn else None))


def heun_update(
    schedule: Schedule, xt: Array, i: Array, x0s: tuple[Array, Array], level: Schedule
) -> Array:
    """x at index i - 1 from x_t, which stands at the single entry of `level`.

    Karras et al. 2022, algorithm 1. Deterministic: noise, if any, was added in reaching
    `level` (see `churned`).

    Args:
        schedule: the chain.
        xt: (batch, *data).
        i: an index in 0..T-1, ().
        x0s: the x_0 predicted at x_t, and at the end of Euler's step, which is this
            update with the first prediction twice; (batch, *data) each.
        level: where x_t stands (see `level_at`).

    Returns:
        x_{i-1}, (batch, *data).

    Raises:
        ValueError: if a concrete i lies outside the chain, or i is not of integers.
    """
    sigma = level.sqrt_recipm1_alphas_cumprod[0]
    r = before(schedule.sqrt_recipm1_alphas_cumprod, 0.0, i, sigma) / sigma
    signal = jnp.sqrt(lookup(schedule.alphas_cumprod_prev, i))
    kept = r * signal * level.sqrt_recip_alphas_cumprod[0]
    # At i = 0, r is 0 and the step is Euler's.
    x0 = x0s[0] + (x0s[1] - x0s[0]) / (2 * jnp.where(r > 0, r, 1.0))
    return kept * xt + signal * (1 - r) * x0


def level_at(sigma: Array, step: Array) -> Schedule:
    """A chain of one entry: the noise level sigma, told as `step`.

    sigma is that of Karras et al. 2022, the noise scale of x / alpha. Only what
    `q_sample` and the predictions read is meaningful in it.

    Args:
        sigma: noise scale / signal scale, ().
        step: what the network is told, ().

    Returns:
        A schedule of tables of shape (1,).
    """
    recip = jnp.sqrt(1 + jnp.square(sigma))
    signal = 1 / recip
    fields = (field.name for field in dataclasses.fields(Schedule))
    tables: dict[str, Any] = dict.fromkeys(fields, jnp.nan) | {
        "alphas_cumprod": jnp.square(signal),
        "sqrt_alphas_cumprod": signal,
        "sqrt_one_minus_alphas_cumprod": sigma * signal,
        "sqrt_recip_alphas_cumprod": recip,
        "sqrt_recipm1_alphas_cumprod": sigma,
    }
    entries = {name: jnp.full(1, x, signal.dtype) for name, x in tables.items()}
    return Schedule(**entries | {"timesteps": jnp.asarray(step)[None]})


def churned(
    schedule: Schedule,
    xt: Array,
    i: Array,
    noise: Array,
    *,
    churn: float | Array,
    churn_range: tuple[float | Array, float | Array] = (0.0, math.inf),
    churn_noise: float | Array = 1.0,
    trained_on: Schedule | None = None,
) -> tuple[Array, Schedule]:
    """x_t with noise added, and the level where it then is.

    Karras et al. 2022, algorithm 2, lines 4-6.

    Args:
        schedule: the chain.
        xt: (batch, *data).
        i: an index in 0..T-1, ().
        noise: standard normal, (batch, *data).
        churn: as for `heun`, a number or (), as the next three.
        churn_range: as for `heun`.
        churn_noise: as for `heun`.
        trained_on: as for `heun`.

    Returns:
        The noised x_t, (batch, *data), and its level.

    Raises:
        ValueError: if a concrete i lies outside the chain, or i is not of integers.
    """
    sigma = lookup(schedule.sqrt_recipm1_alphas_cumprod, i)
    inside = (churn_range[0] <= sigma) & (sigma <= churn_range[1])
    most = math.sqrt(2) - 1
    gamma = jnp.where(inside, jnp.minimum(churn / schedule.num_steps, most), 0.0)
    table = schedule if trained_on is None else trained_on
    # No network knows a sigma beyond the last.
    highest = table.sqrt_recipm1_alphas_cumprod[-1]
    gamma = jnp.maximum(jnp.minimum(gamma, highest / sigma - 1), 0.0)
    raised = sigma * (1 + gamma)
    step = jnp.interp(
        _minus_log_alpha(raised),
        _minus_log_alpha(table.sqrt_recipm1_alphas_cumprod),
        table.timesteps.astype(raised.dtype),
    )
    level = level_at(raised, step)
    added = sigma * jnp.sqrt(gamma * (2 + gamma)) * churn_noise
    y = lookup(schedule.sqrt_recip_alphas_cumprod, i) * xt + added * noise
    return level.sqrt_alphas_cumprod[0] * y, level


_Stages = tuple[Array, Array, Array]  # x, the first prediction, the last one


def _minus_log_alpha(sigma: Array) -> Array:
    return 0.5 * jnp.log1p(jnp.square(sigma))  # log(1 + small) would lose its digits


def _start(schedule: Schedule, x: Array) -> SampleState:
    check_signal(
        schedule,
        "heun cannot start from zero terminal SNR, where sigma is infinite: use ddim, "
        "or respace the chain to end below its last step",
    )
    return SampleState(x)


@suits("heun")
def _step(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    state: SampleState,
    i: Array,
    *,
    churning: Closure | None,
) -> tuple[SampleState, StepInfo]:
    """One network call if i = 0 and else two.

    They are asked in a loop, so that the network is compiled once, and in one of fixed
    length, so that it has a gradient.
    """
    xt, level = state.x, jax.tree.map(lambda table: table[i][None], schedule)
    if churning is not None:
        xt, level = churning(schedule, xt, i, draw_noise(key, xt))
    sigma_next = before(schedule.sqrt_recipm1_alphas_cumprod, 0.0, i, level.betas[0])
    # After churn the network is told floats; then at both ends.
    end = level_at(sigma_next, schedule.timesteps[i - 1].astype(level.timesteps.dtype))

    def stage(carry: _Stages, k: Array) -> _Stages:
        x, start, _ = carry
        here = jax.tree.map(partial(jnp.where, k == 0), level, end)
        x0 = denoise(here, x, jnp.zeros((), jnp.int32)).x0
        start = jnp.where(k == 0, x0, start)
        return heun_update(schedule, xt, i, (start, x0), level), start, x0

    def body(carry: _Stages, k: Array) -> tuple[_Stages, None]:
        ends = (i == 0) & (k == 1)  # Euler's step reaches clean data
        return jax.lax.cond(ends, lambda c, _: c, stage, carry, k), None

    zeros = jnp.zeros_like(xt)
    (x, _, x0), _ = jax.lax.scan(body, (xt, zeros, zeros), jnp.arange(2))
    return SampleState(x), StepInfo(x0)

"""DPM-Solver++ in its multistep form, and its stochastic form (Lu et al. 2022b).

An exponential integrator of the probability flow in lambda = log(alpha / sigma), fed
with predictions of x_0. Index 0 is followed by the step to clean data, which returns
the x_0 predicted at index 0: T indices, T network calls.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure
from ..denoiser import Estimate
from ..schedules import Schedule, at
from .base import Sampler, before, one_call, suits


class MultistepState(NamedTuple):
    """A sample, and what earlier steps predicted.

    Attributes:
        x: the current sample, (batch, *data).
        past: the x_0 predicted at indices i + 1, i + 2, ..., (batch, *data) each.
        known: how many of them there are, () int32.
    """

    x: Array
    past: tuple[Array, ...]
    known: Array


def dpm_solver_pp(
    *, order: int = 2, stochastic: bool = False, lower_order_final: bool = True
) -> Sampler:
    """DPM-Solver++ of order 1, 2 ("2M") or 3 ("3M"), or stochastic (Lu et al. 2022b).

    Order 1 is `ddim(eta=0)`, or, stochastic, `ddim(eta=1)`; order 2 stochastic is
    "SDE-DPM-Solver++(2M)". The first steps have the order that their history allows.
    Order 3 pays from some 12 steps on: with fewer it overshoots, on normal data by 8 to
    36 % of the standard deviation. Every schedule will do, best one even in log-SNR
    (`solver_spacing`), also with zero terminal SNR where the network predicts v or x_0.
    Under strong guidance the paper recommends a denoiser with `clip_dynamic()`.

    Args:
        order: 1 to 3, or, stochastic, 1 or 2.
        stochastic: whether noise is added at each step.
        lower_order_final: also lower the order towards the end, to 2 into index 1 and
            to 1 into index 0, where a long step of a higher order overshoots. The
            authors' code does so in chains of fewer than 10 steps, this in all: in
            longer ones it costs little. The step to clean data always has order 1.

    Returns:
        The sampler; T network calls.

    Raises:
        ValueError: if there is no such order.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> table = schedules.make_schedule(betas).sqrt_one_minus_alphas_cumprod
        >>> def network(x, t):  # right for standard normal data; t lies between steps
        ...     return jnp.interp(t, jnp.arange(1000), table)[:, None] * x
        >>> positions = solver_spacing.log_snr_positions(betas, 20)
        >>> schedule = solver_spacing.interpolated_schedule(betas, positions)
        >>> solver = samplers.dpm_solver_pp(order=2)
        >>> x = samplers.sample(0, network, schedule, (5000, 1), sampler=solver)
        >>> print(f"{jnp.std(x):.1f}")
        1.0
    """
    highest = 2 if stochastic else 3
    if order not in range(1, highest + 1):
        kind = "the stochastic DPM-Solver++" if stochastic else "DPM-Solver++"
        raise ValueError(f"the order of {kind} must lie in 1..{highest}; got {order}")
    update = Closure(_update, order=order, lower_order_final=lower_order_final)
    init = Closure(multistep_start, order=order)
    return one_call(update, stochastic=stochastic, init=init)


def multistep_start(schedule: Schedule, x: Array, *, order: int) -> MultistepState:
    """The init of a multistep solver: no history yet.

    Args:
        schedule: not read.
        x: where to start, (batch, *data).
        order: predictions that a step reads, one more than are remembered.

    Returns:
        The first state.
    """
    del schedule
    past = tuple(jnp.zeros_like(x) for _ in range(order - 1))
    return MultistepState(x, past, jnp.zeros((), jnp.int32))


def remember(state: Any, x: Array, x0: Array) -> Any:
    """The state after a step: x0 joins the history, whose oldest entry leaves it.

    Args:
        state: a `MultistepState`, or one with its fields.
        x: the new sample, (batch, *data).
        x0: what the step predicted, (batch, *data).

    Returns:
        A state of the same class.
    """
    past = (x0, *state.past)[: len(state.past)]
    return state._replace(x=x, past=past, known=state.known + 1)


def allowed_order(i: Array, known: Array, order: int, *, lower: bool) -> Array:
    """The order of the step from index i: by its history, and, if lowered, the end.

    Args:
        i: the index, ().
        known: predictions there are, that of this step included, ().
        order: the highest.
        lower: whether it goes down towards index 0.

    Returns:
        The order, () int32.
    """
    ending = jnp.maximum(i, 1) if lower else jnp.where(i == 0, 1, order)
    return jnp.minimum(jnp.minimum(order, known), ending)


def dpm_solver_pp_update(
    schedule: Schedule,
    xt: Array,
    i: Array,
    estimate: Estimate,
    noise: Array | None = None,
    *,
    past: tuple[Array, ...] = (),
    order: int | Array | None = None,
) -> Array:
    """x at index i - 1 from x_t and the estimate at index i (Lu et al. 2022b).

    Args:
        schedule: the chain.
        xt: (batch, *data).
        i: an index in 0..T-1, ().
        estimate: what the model says at (xt, i).
        noise: standard normal, (batch, *data), for the stochastic form; None is the
            deterministic one.
        past: the x_0 predicted at i + 1 and i + 2, none to two of them.
        order: how many predictions to use, all if None; may be traced, ().

    Returns:
        x_{i-1}, (batch, *data).

    Raises:
        ValueError: if a concrete i lies outside the chain, or i is not of integers.
    """
    x0s = (estimate.x0, *past)
    order = len(x0s) if order is None else order
    signal = jnp.sqrt(at(schedule.alphas_cumprod_prev, i, xt))
    sigma_prev = before(schedule.sqrt_one_minus_alphas_cumprod, 0.0, i, xt)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, i, xt)
    decay = _decay(schedule, i)  # exp(-h), the step being h long in lambda
    gain = 1 - decay
    x = sigma_prev / sigma * xt
    if noise is not None:
        gain = 1 - jnp.square(decay)
        x = decay * x + sigma_prev * jnp.sqrt(gain) * noise
    x = x + signal * gain * x0s[0]
    if len(x0s) > 1:
        first, second = _slopes(schedule, i, gain, order)
        x = x + signal * first * (x0s[0] - x0s[1])
    if len(x0s) > 2:
        x = x + signal * second * (x0s[1] - x0s[2])
    return x


def _decay(schedule: Schedule, i: Array) -> Array:
    """exp(lambda_i - lambda_{i-1}): 0 into clean data, 0 out of pure noise."""
    table = schedule.sqrt_recipm1_alphas_cumprod  # sigma / alpha = exp(-lambda)
    return before(table, 0.0, i, jnp.zeros(())) / at(table, i, jnp.zeros(()))


def _slopes(
    schedule: Schedule, i: Array, gain: Array, order: int | Array
) -> tuple[Array, Array]:
    """The weights of the two newest differences of x_0, by order (0: not used)."""
    last = schedule.num_steps - 1
    steps = (i, jnp.minimum(i + 1, last), jnp.minimum(i + 2, last))
    h, h0, h1 = (-jnp.log(_decay(schedule, step)) for step in steps)
    # Written with h / h0 rather than r0 = h0 / h: out of pure noise h0 is infinite.
    a, b, far = h / h0, h / h1, h / (h0 + h1)
    phi2 = 1 - gain / h
    # The authors' code has half of this one, and with it order 2: the divided
    # difference of x_0 over two steps is half of its second derivative.
    phi3 = 2 * (phi2 / h - 0.5)
    bend = phi2 * h0 / (h0 + h1) - phi3 * far
    third = jnp.where(order == 3, a * (phi2 + bend), 0.0)
    first = jnp.where(order == 2, 0.5 * gain * a, third)
    return first, jnp.where(order == 3, -b * bend, 0.0)


@suits("logsnr")
def _update(
    schedule: Schedule,
    state: MultistepState,
    i: Array,
    estimate: Estimate,
    noise: Array | None,
    *,
    order: int,
    lower_order_final: bool,
) -> MultistepState:
    allowed = allowed_order(i, state.known + 1, order, lower=lower_order_final)
    x = dpm_solver_pp_update(
        schedule, state.x, i, estimate, noise, past=state.past, order=allowed
    )
    after: MultistepState = remember(state, x, estimate.x0)
    return after

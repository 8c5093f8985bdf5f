"""DPM-Solver++ in its multistep form, and its stochastic form (Lu et al. 2022b).

An exponential integrator of the probability flow in lambda = log(alpha / sigma), fed
with predictions of x_0. Index 0 is followed by the step to clean data, which returns
the x_0 predicted at index 0: T indices, T network calls.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.bound import Bound
from ddpm_jax.diffusion.noise import draw_noise
from ddpm_jax.diffusion.schedules import Schedule, at
from ddpm_jax.diffusion.stepping import (
    Denoise,
    Sampler,
    StepInfo,
    ask,
    before,
    check_prediction,
    read,
    suits,
)
from ddpm_jax.diffusion.transitions import Clip, Predict, from_eps


class MultistepState(NamedTuple):
    """A sample, and what earlier steps predicted."""

    x: jax.Array
    past: tuple[jax.Array, ...]  # the x_0 predicted at indices i + 1, i + 2, ...
    known: jax.Array  # () int32: how many of them there are


def dpm_solver_pp(
    *,
    order: int = 2,
    stochastic: bool = False,
    lower_order_final: bool = True,
    predict: Predict = from_eps,
    clip: Clip | None = None,
) -> Sampler:
    """DPM-Solver++ of order 1, 2 ("2M") or 3 ("3M"); stochastic: orders 1 and 2.

    Order 1 is `ddim(eta=0)`, or, stochastic, `ddim(eta=1)`; order 2 stochastic is
    "SDE-DPM-Solver++(2M)". The first steps have the order that their history allows.
    Order 3 pays from some 15 steps on: with 8 to 12 it overshoots the standard
    deviation of normal data by 4 to 33 %, order 2 by at most 4 %.
    It works on every schedule, best on one respaced evenly in log-SNR (see
    `solver_spacing`), also with zero terminal SNR where the network predicts v or x_0.

    Args:
        lower_order_final: also lower the order towards the end, to 2 into index 1 and
            to 1 into index 0, where a long step of a higher order overshoots. The
            authors' code does so in chains of fewer than 10 steps; here it is done in
            all, since in longer chains of a suitable spacing it costs little. The step
            to clean data always has order 1.
        predict: what the network's output is: `from_eps`, `from_x0` or `from_v`.
        clip: limits the predicted x_0: `guidance.clip_static()`, or `clip_dynamic()`,
            which the paper recommends under strong guidance.

    Raises:
        ValueError: if there is no such order.
    """
    highest = 2 if stochastic else 3
    if order not in range(1, highest + 1):
        kind = "the stochastic DPM-Solver++" if stochastic else "DPM-Solver++"
        raise ValueError(f"the order of {kind} must lie in 1..{highest}; got {order}")
    step = Bound(
        _step,
        order=order,
        stochastic=stochastic,
        lower_order_final=lower_order_final,
        predict=predict,
        clip=clip,
    )
    return Sampler(Bound(multistep_start, order=order, predict=predict), step)


def multistep_start(
    schedule: Schedule, x: jax.Array, *, order: int, predict: Predict
) -> MultistepState:
    """The init of a multistep solver: no history yet."""
    check_prediction(schedule, predict)
    past = tuple(jnp.zeros_like(x) for _ in range(order - 1))
    return MultistepState(x, past, jnp.zeros((), jnp.int32))


def remember(state: MultistepState, x: jax.Array, x0: jax.Array) -> MultistepState:
    """The state after a step: x0 joins the history, whose oldest entry leaves it."""
    past = (x0, *state.past)[: len(state.past)]
    return MultistepState(x, past, state.known + 1)


def dpm_solver_pp_update(
    schedule: Schedule,
    xt: jax.Array,
    i: jax.Array,
    x0s: tuple[jax.Array, ...],
    noise: jax.Array | None = None,
    *,
    order: int | jax.Array | None = None,
) -> jax.Array:
    """x at index i - 1 from x_t at index i and the x_0 predicted at i, i + 1, i + 2.

    Args:
        i: a scalar index.
        x0s: one to three predictions, the newest first.
        noise: if given, the stochastic form with this standard normal noise.
        order: how many of x0s to use, all if None; may be traced.
    """
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


def final_order(i: jax.Array, order: int, *, lower: bool) -> jax.Array:
    """The highest order of the step from index i as the end nears; 1 to clean data."""
    return jnp.maximum(i, 1) if lower else jnp.where(i == 0, 1, order)


def _decay(schedule: Schedule, i: jax.Array) -> jax.Array:
    """exp(lambda_i - lambda_{i-1}): 0 into clean data, 0 out of pure noise."""
    table = schedule.sqrt_recipm1_alphas_cumprod  # sigma / alpha = exp(-lambda)
    return before(table, 0.0, i, jnp.zeros(())) / at(table, i, jnp.zeros(()))


def _slopes(
    schedule: Schedule, i: jax.Array, gain: jax.Array, order: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weights of the two newest differences of x_0, by order (0: not used)."""
    last = schedule.num_steps - 1
    h = -jnp.log(_decay(schedule, i))
    h0 = -jnp.log(_decay(schedule, jnp.minimum(i + 1, last)))
    h1 = -jnp.log(_decay(schedule, jnp.minimum(i + 2, last)))
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
def _step(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    state: MultistepState,
    i: jax.Array,
    *,
    order: int,
    stochastic: bool,
    lower_order_final: bool,
    predict: Predict,
    clip: Clip | None,
) -> tuple[MultistepState, StepInfo]:
    output = ask(denoise, schedule, state.x, i)
    x0 = read(schedule, state.x, i, output, predict=predict, clip=clip).x0
    noise = draw_noise(key, state.x) if stochastic else None
    allowed = jnp.minimum(order, state.known + 1)
    ending = final_order(i, order, lower=lower_order_final)
    x = dpm_solver_pp_update(
        schedule,
        state.x,
        i,
        (x0, *state.past),
        noise,
        order=jnp.minimum(allowed, ending),
    )
    return remember(state, x, x0), StepInfo(x0)

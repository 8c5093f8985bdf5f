"""Which step of the chain each training example is given, and with what weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .noise import threefry_key


class StepSampler(NamedTuple):
    """Three pure functions; the state is a pytree, checkpointed with the run.

    A draw has one key per example, so that it does not depend on the layout of the
    batch over devices; an update sees the whole global batch.
    """

    init: Callable[[], Any]  # () -> state
    draw: Callable[..., Any]  # (state, keys (b,)) -> (t (b,), weight (b,))
    update: Callable[..., Any]  # (state, t (b,), unweighted losses (b,)) -> state


class LossHistory(NamedTuple):
    """The last losses of every step."""

    losses: Array  # (T, history), a ring for each step
    counts: Array  # (T,) int32, losses seen so far


def uniform_steps(num_steps: int) -> StepSampler:
    """t ~ U{0, ..., T-1}, weight 1 (Ho et al. 2020, algorithm 1)."""

    def draw(state: tuple, keys: Array) -> tuple[Array, Array]:
        draws = jax.vmap(lambda key: jax.random.randint(key, (), 0, num_steps))
        t = draws(threefry_key(keys))
        return t, jnp.ones(t.shape)

    return StepSampler(lambda: (), draw, lambda state, t, losses: state)


def loss_second_moment(
    num_steps: int, *, history: int = 10, uniform_fraction: float = 0.001
) -> StepSampler:
    """Importance sampling of t for the bound (Nichol & Dhariwal 2021, eq. 18).

    p_t is proportional to the root mean square of the last `history` losses at t,
    mixed with a little of the uniform distribution; the weight 1 / (T p_t) keeps the
    expected loss. Draws are uniform until every step has `history` losses.
    """

    def init() -> LossHistory:
        empty = jnp.zeros((num_steps, history))
        return LossHistory(empty, jnp.zeros(num_steps, jnp.int32))

    def draw(state: LossHistory, keys: Array) -> tuple[Array, Array]:
        p = step_probabilities(state, uniform_fraction=uniform_fraction)
        u = jax.vmap(jax.random.uniform)(threefry_key(keys))
        # A sum of float32 may end below 1, and u beyond it.
        t = jnp.minimum(jnp.searchsorted(jnp.cumsum(p), u), num_steps - 1)
        return t, 1 / (num_steps * p[t])

    def update(state: LossHistory, t: Array, losses: Array) -> LossHistory:
        same = t[:, None] == t[None, :]
        nth = jnp.sum(jnp.tril(same, -1), axis=1)  # how many came before at this t
        fits = nth >= jnp.sum(same, axis=1) - history  # later ones would overwrite it
        place = (state.counts[t] + nth) % history
        row = jnp.where(fits, t, num_steps)  # out of range: dropped
        return LossHistory(
            state.losses.at[row, place].set(losses, mode="drop"),
            state.counts.at[t].add(1),
        )

    return StepSampler(init, draw, update)


def step_probabilities(state: LossHistory, *, uniform_fraction: float = 0.001) -> Array:
    """The probability of each step, (T,), that `loss_second_moment` draws with."""
    num_steps, history = state.losses.shape
    scale = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    total = jnp.sum(scale)
    warm = jnp.all(state.counts >= history) & (total > 0)
    p = scale / jnp.where(warm, total, 1.0)
    p = p * (1 - uniform_fraction) + uniform_fraction / num_steps
    return jnp.where(warm, p, 1 / num_steps)

"""Which step of the chain each training example is given, and with what weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .noise import threefry_key


class StepSampler(NamedTuple):
    """How training draws t: three pure functions; the state is a pytree.

    The state is checkpointed with the run. A draw has one key per example, so that it
    does not depend on the layout of the batch over devices; an update sees the whole
    global batch.

    Attributes:
        init: () -> state.
        draw: (state, keys (batch,)) -> (t (batch,), weight (batch,)).
        update: (state, t (batch,), unweighted losses (batch,)) -> state.
    """

    init: Callable[[], Any]
    draw: Callable[[Any, Array], tuple[Array, Array]]
    update: Callable[[Any, Array, Array], Any]


class LossHistory(NamedTuple):
    """The last losses of every step.

    Attributes:
        losses: (T, history), a ring for each step.
        counts: losses seen so far, (T,) int32.
    """

    losses: Array
    counts: Array


def uniform_steps(num_steps: int) -> StepSampler:
    """t ~ U{0, ..., T-1}, weight 1 (Ho et al. 2020, algorithm 1).

    Args:
        num_steps: T.

    Returns:
        A step sampler without a state.

    Examples:
        >>> import jax
        >>> from ddpm_jax.diffusion import importance
        >>> steps = importance.uniform_steps(1000)
        >>> keys = jax.random.split(jax.random.key(0), 128)  # one per example
        >>> t, weight = steps.draw(steps.init(), keys)
        >>> t.shape, bool((0 <= t.min()) & (t.max() < 1000)), float(weight[0])
        ((128,), True, 1.0)
    """

    def draw(state: tuple[()], keys: Array) -> tuple[Array, Array]:
        def one(key: Array) -> Array:
            return jax.random.randint(key, (), 0, num_steps)

        t = jax.vmap(one)(threefry_key(keys))
        return t, jnp.ones(t.shape)

    return StepSampler(lambda: (), draw, lambda state, t, losses: state)


def loss_second_moment(
    num_steps: int, *, history: int = 10, uniform_fraction: float = 0.001
) -> StepSampler:
    """Importance sampling of t for the bound (Nichol & Dhariwal 2021, eq. 18).

    p_t is proportional to the root mean square of the last `history` losses at t,
    mixed with a little of the uniform distribution; the weight 1 / (T p_t) keeps the
    expected loss. Draws are uniform until every step has `history` losses.

    Args:
        num_steps: T.
        history: losses that are remembered of each step.
        uniform_fraction: the part of the uniform distribution, in [0, 1].

    Returns:
        A step sampler whose state is a `LossHistory`.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import importance
        >>> steps = importance.loss_second_moment(2, history=1)
        >>> state = steps.update(steps.init(), jnp.array([0, 1]), jnp.array([3.0, 1.0]))
        >>> print(np.asarray(importance.step_probabilities(state)).round(3))
        [0.75 0.25]
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
    """The probability of each step that `loss_second_moment` draws with.

    Nichol & Dhariwal 2021, eq. 18.

    Args:
        state: of T steps.
        uniform_fraction: the part of the uniform distribution, in [0, 1].

    Returns:
        Probabilities that add up to 1, (T,).
    """
    num_steps, history = state.losses.shape
    scale = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    total = jnp.sum(scale)
    warm = jnp.all(state.counts >= history) & (total > 0)
    p = scale / jnp.where(warm, total, 1.0)
    p = p * (1 - uniform_fraction) + uniform_fraction / num_steps
    return jnp.where(warm, p, 1 / num_steps)

"""The loop of every sampler: from x_T to x_0 as one scan, or in chunks for the eyes.

`sample` and `sample_iter` compile on the first call and run compiled code on the next
ones, for the same functions: give `denoise` as a pytree whose parameters are leaves,
`jax.tree_util.Partial(apply, params)` or what `guidance.classifier_free` returns, and
new parameters, scales, keys and schedules of the same length all run the same program.
A plain function works as well, hashed by identity, its parameters constants of the
program; a new lambda at every call compiles at every call.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.ancestral import ddpm
from ddpm_jax.diffusion.bound import as_pytree
from ddpm_jax.diffusion.noise import draw_noise, fold_in
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.stepping import Denoise, Sampler, floating

_DDPM = ddpm()


def sample(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    sampler: Sampler = _DDPM,
    x_init: jax.Array | None = None,
    start_index: int | None = None,
) -> jax.Array:
    """x_0 of the given shape, drawn from x_T ~ N(0, I) down the whole chain.

    One `lax.scan`, compiled once (see the module) and fit for an outer jit. Consumes
    `key`: step i draws from fold_in(key, i), x_T from fold_in(key, T).

    Args:
        key: one key, or (batch,) keys, one per example: then an image depends on its
            own key and not on the batch that it is drawn in.
        denoise: (x, t) -> output, of the shape of x, or twice its channels where the
            variance is learned; t has shape (batch,). What a plain function reads from
            outside is read once, when it is compiled: give a pytree, or a new function,
            where that changes.
        schedule: the chain to walk, respaced or not.
        shape: (batch, *data).
        x_init: where to start, of that shape, in place of the draw.
        start_index: the index to start at, T - 1 if None: with x_init noised to a
            smaller index, the rest of the chain. Part of the program.

    Raises:
        ValueError: if x_init has another shape, start_index lies outside the chain, or
            the sampler cannot work on the schedule.
    """
    count = _checked_start(schedule, start_index) + 1
    denoise, sampler = as_pytree(denoise), Sampler(*map(as_pytree, sampler))
    x = _initial(key, schedule, tuple(shape), x_init)
    # Outside the compiled loop the schedule is concrete, and init can check it.
    state = sampler.init(schedule, x)
    return _walk(key, denoise, schedule, sampler.step, state, count=count)


def sample_iter(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    sampler: Sampler = _DDPM,
    x_init: jax.Array | None = None,
    start_index: int | None = None,
    every: int = 1,
) -> Iterator[tuple[int, jax.Array]]:
    """Yields (index, x) after each `every` steps of the walk that `sample` makes.

    index is that of the step just made, so the last pair is (0, x_0); the numbers are
    those of `sample`. One program serves every length of chunk and every start. The
    arguments, and what is raised, are those of `sample`; every >= 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step; got {every}")
    upper = _checked_start(schedule, start_index) + 1
    denoise, sampler = as_pytree(denoise), Sampler(*map(as_pytree, sampler))
    x = _initial(key, schedule, tuple(shape), x_init)
    state = sampler.init(schedule, x)
    return _chunks(key, denoise, schedule, sampler.step, state, upper, every)


def _chunks(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    step: Callable[..., Any],
    state: Any,
    upper: int,
    every: int,
) -> Iterator[tuple[int, jax.Array]]:
    while upper > 0:
        lower = max(upper - every, 0)
        state = _walk_between(key, denoise, schedule, step, state, upper, lower)
        yield lower, state.x
        upper = lower


@partial(jax.jit, static_argnames="count")
def _walk(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    step: Callable[..., Any],
    state: Any,
    *,
    count: int,
) -> jax.Array:
    def body(state: Any, i: jax.Array) -> tuple[Any, None]:
        state, _ = step(fold_in(key, i), denoise, schedule, state, i)
        return state, None

    state, _ = jax.lax.scan(body, state, jnp.arange(count - 1, -1, -1))
    return state.x


@jax.jit
def _walk_between(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    step: Callable[..., Any],
    state: Any,
    upper: jax.Array,
    lower: jax.Array,
) -> Any:
    def body(done: jax.Array, state: Any) -> Any:
        i = upper - 1 - done
        return step(fold_in(key, i), denoise, schedule, state, i)[0]

    return jax.lax.fori_loop(0, upper - lower, body, state)


def _initial(
    key: jax.Array,
    schedule: Schedule,
    shape: tuple[int, ...],
    x_init: jax.Array | None,
) -> jax.Array:
    if x_init is None:
        like = jax.ShapeDtypeStruct(shape, schedule.betas.dtype)
        return draw_noise(fold_in(key, schedule.num_steps), like)
    if x_init.shape != shape:
        raise ValueError(
            f"x_init must have the shape of the sample, {shape}; got {x_init.shape}"
        )
    return floating(schedule, x_init)


def _checked_start(schedule: Schedule, index: int | None) -> int:
    last = schedule.num_steps - 1
    if index is None:
        return last
    if not 0 <= index <= last:
        raise ValueError(f"the index to start at must lie in 0..{last}; got {index}")
    return int(index)

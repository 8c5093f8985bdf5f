"""The loop of every sampler: from x_T to x_0 as one scan, or in chunks for the eyes.

`sample` and `sample_iter` compile on the first call and run compiled code on the next
ones, for the same functions. The arrays anywhere in a denoiser (a module's, those of
`jax.tree_util.Partial(apply, params)`, of `guidance.classifier_free`) are arguments of
the program: new parameters, scales, keys and schedules of the same length run the same
one. A plain function is hashed by identity, the parameters that it closes over being
constants; a new lambda at every call compiles at every call.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..closures import as_closure
from ..denoiser import Denoiser, Network, as_denoiser
from ..noise import Key, draw_noise, fold_in, threefry_key
from ..schedules import Schedule
from .base import Sampler, Step, check_sampler, floating
from .ddpm import ddpm

_DDPM = ddpm()


def sample(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    sampler: Sampler = _DDPM,
    x_init: Array | None = None,
    start_index: int | None = None,
) -> Array:
    """x_0 of the given shape, drawn from x_T ~ N(0, I) down the whole chain.

    One `lax.scan`, compiled once (see the module) and fit for an outer jit. Consumes
    `key`: step i draws from fold_in(key, i), x_T from fold_in(key, T).

    Args:
        key: one key, or a seed, or (batch,) keys, one per example: then an image
            depends on its own key and not on the batch that it is drawn in.
        denoise: what `denoiser.denoiser` makes of a network; a network itself, (x, t)
            -> output, is read as eps, with `fixed_large` and without clipping. What a
            plain function reads from outside is read once, when it is compiled.
        schedule: the chain to walk, respaced or not.
        shape: (batch, *data).
        x_init: where to start, of that shape, in place of the draw.
        start_index: the index to start at, T - 1 if None: with x_init noised to a
            smaller index, the rest of the chain. Part of the program.

    Raises:
        ValueError: if x_init has another shape, start_index lies outside the chain, or
            the sampler or the denoiser cannot work on the schedule.
    """
    key, denoise, step, state, count = _begin(
        key, denoise, schedule, shape, sampler, x_init, start_index
    )
    return _walk(key, denoise, schedule, step, state, count=count)


def sample_iter(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    shape: tuple[int, ...],
    *,
    sampler: Sampler = _DDPM,
    x_init: Array | None = None,
    start_index: int | None = None,
    every: int = 1,
) -> Iterator[tuple[int, Array]]:
    """Yields (index, x) after each `every` steps of the walk that `sample` makes.

    index is that of the step just made, so the last pair is (0, x_0); the numbers are
    those of `sample`. One program serves every length of chunk and every start. The
    arguments, and what is raised, are those of `sample`; every >= 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step; got {every}")
    key, denoise, step, state, count = _begin(
        key, denoise, schedule, shape, sampler, x_init, start_index
    )

    def chunks(state: Any) -> Iterator[tuple[int, Array]]:
        for upper in range(count, 0, -every):
            lower = max(upper - every, 0)
            state = _walk_between(key, denoise, schedule, step, state, upper, lower)
            yield lower, state.x

    return chunks(state)


def prepared(
    denoise: Denoiser | Network, schedule: Schedule, sampler: Sampler, x: Array
) -> tuple[Denoiser, Sampler, Any]:
    """The denoiser, the sampler as pytrees, and its first state, for a compiled loop.

    Raises:
        ValueError: if one of them is not what it should be, or cannot work on the
            schedule, which outside the loop is concrete.
    """
    check_sampler(sampler)
    sampler = Sampler(as_closure(sampler.init), as_closure(sampler.step))
    denoise, state = as_denoiser(denoise, schedule), sampler.init(schedule, x)
    if not hasattr(state, "x"):
        raise ValueError(
            "a sampler's init must return a pytree whose field x is the current "
            f"sample; got {type(state).__name__}"
        )
    return denoise, sampler, state


def _begin(key, denoise, schedule, shape, sampler, x_init, start_index) -> tuple:
    """The typed key, what `prepared` makes of the rest, and the number of steps."""
    key, last = threefry_key(key), schedule.num_steps - 1
    index = last if start_index is None else start_index
    if not 0 <= index <= last:
        raise ValueError(f"the index to start at must lie in 0..{last}; got {index}")
    if x_init is None:
        like = jax.ShapeDtypeStruct(tuple(shape), schedule.betas.dtype)
        x_init = draw_noise(fold_in(key, schedule.num_steps), like)
    if x_init.shape != tuple(shape):
        raise ValueError(
            f"x_init must have the shape of the sample, {shape}; got {x_init.shape}"
        )
    x = floating(schedule, x_init)
    denoise, sampler, state = prepared(denoise, schedule, sampler, x)
    return key, denoise, sampler.step, state, int(index) + 1


@partial(jax.jit, static_argnames="count")
def _walk(key, denoise, schedule, step: Step, state, *, count: int) -> Array:
    def body(state, i):
        return step(fold_in(key, i), denoise, schedule, state, i)[0], None

    return jax.lax.scan(body, state, jnp.arange(count - 1, -1, -1))[0].x


@jax.jit
def _walk_between(key, denoise, schedule, step: Step, state, upper, lower) -> Any:
    def body(done, state):
        i = upper - 1 - done
        return step(fold_in(key, i), denoise, schedule, state, i)[0]

    return jax.lax.fori_loop(0, upper - lower, body, state)

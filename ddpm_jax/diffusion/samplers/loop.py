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
        sampler: the way down, e.g. `ddim()`; `ddpm()` if it is not given.
        x_init: where to start, (batch, *data), in place of the draw.
        start_index: the index to start at, T - 1 if None: with x_init noised to a
            smaller index, the rest of the chain. Part of the program.

    Returns:
        x_0, (batch, *data).

    Raises:
        ValueError: if x_init has another shape, start_index lies outside the chain, or
            the sampler or the denoiser cannot work on the schedule.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):  # x (batch, *data), t (batch,) -> eps
        ...     return 0.5 * x
        >>> key = jax.random.key(0)
        >>> samplers.sample(key, network, schedule, (4, 8, 8, 1)).shape
        (4, 8, 8, 1)
    """
    key, denoise, step, state, count = _begin(
        key, denoise, schedule, shape, sampler, x_init, start_index
    )
    x: Array = _walk(key, denoise, schedule, step, state, count=count)
    return x


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
    those of `sample`. One program serves every length of chunk and every start.

    Args:
        key: as for `sample`.
        denoise: as for `sample`.
        schedule: as for `sample`.
        shape: (batch, *data).
        sampler: as for `sample`.
        x_init: where to start, (batch, *data), in place of the draw.
        start_index: as for `sample`.
        every: steps between what is yielded, at least 1.

    Returns:
        An iterator of pairs of an index and x, (batch, *data).

    Raises:
        ValueError: as `sample`, and if every < 1.

    Examples:
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):
        ...     return 0.5 * x
        >>> walk = samplers.sample_iter(0, network, schedule, (4, 3), every=400)
        >>> [(index, x.shape) for index, x in walk]
        [(600, (4, 3)), (200, (4, 3)), (0, (4, 3))]
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

    Args:
        denoise: as for `sample`.
        schedule: the chain.
        sampler: the way down it.
        x: where to start, (batch, *data).

    Returns:
        All three.

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


def _begin(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    shape: tuple[int, ...],
    sampler: Sampler,
    x_init: Array | None,
    start_index: int | None,
) -> tuple[Array, Denoiser, Step, Any, int]:
    """The typed key, what `prepared` makes of the rest, and the number of steps."""
    key, last = threefry_key(key), schedule.num_steps - 1
    index = last if start_index is None else start_index
    if not 0 <= index <= last:
        raise ValueError(f"the index to start at must lie in 0..{last}; got {index}")
    if x_init is None:
        dtype = schedule.betas.dtype
        like = jax.ShapeDtypeStruct(tuple(shape), dtype)  # type: ignore[no-untyped-call]
        x_init = draw_noise(fold_in(key, schedule.num_steps), like)
    if x_init.shape != tuple(shape):
        raise ValueError(
            f"x_init must have the shape of the sample, {shape}; got {x_init.shape}"
        )
    x = floating(schedule, x_init)
    denoise, sampler, state = prepared(denoise, schedule, sampler, x)
    return key, denoise, sampler.step, state, int(index) + 1


@partial(jax.jit, static_argnames="count")
def _walk(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    step: Step,
    state: Any,
    *,
    count: int,
) -> Any:
    def body(state: Any, i: Array) -> tuple[Any, None]:
        return step(fold_in(key, i), denoise, schedule, state, i)[0], None

    return jax.lax.scan(body, state, jnp.arange(count - 1, -1, -1))[0].x


@jax.jit
def _walk_between(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    step: Step,
    state: Any,
    upper: Array,
    lower: Array,
) -> Any:
    def body(done: Array, state: Any) -> Any:
        i = upper - 1 - done
        return step(fold_in(key, i), denoise, schedule, state, i)[0]

    return jax.lax.fori_loop(0, upper - lower, body, state)

"""Inpainting with a denoiser that was not trained for it (Lugmayr et al. 2022)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .denoiser import Denoiser, Network
from .noise import Key, draw_noise, fold_in, threefry_key
from .samplers import Sampler, ddpm
from .samplers.base import floating
from .samplers.loop import prepared
from .schedules import Schedule
from .transitions import q_sample, q_step

_DDPM = ddpm()


def inpaint(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    image: Array,
    mask: Array,
    *,
    sampler: Sampler = _DDPM,
    jump: int = 10,
    resample: int = 10,
) -> Array:
    """`image` where the mask is 1, and what the denoiser thinks fits elsewhere.

    RePaint (Lugmayr et al. 2022, algorithm 1): each step down takes the known pixels
    from the noised image and the others from the sampler; every `jump` steps the chain
    goes back up by as many and comes down again, `resample` times in all, so that the
    two parts come to agree. Network calls: about T * resample. The sampler starts
    afresh at every step, so a multistep solver has order 1 here. Consumes `key`.

    Args:
        key: one key, or (batch,) of them, one per image; or a seed.
        denoise: as `samplers.sample` takes it.
        schedule: the chain.
        image: (batch, *data) in [-1, 1]; where the mask is 0 it may hold anything.
        mask: 1 for known and 0 for unknown, of the shape of `image`, or with one
            channel, or without the batch axis.
        sampler: the way down.
        jump: steps between two ways back up, at least 1.
        resample: how often each stretch is walked down; 1 is plain masking.

    Returns:
        Images, (batch, *data).

    Raises:
        ValueError: if the mask has another shape, or jump or resample is below 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import editing, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(100, end=0.2))
        >>> def network(x, t):
        ...     return jnp.zeros_like(x)
        >>> image = jnp.full((2, 4, 4, 1), 0.5)
        >>> mask = jnp.ones((4, 4, 1)).at[:, 2:].set(0)  # the right half is unknown
        >>> filled = editing.inpaint(0, network, schedule, image, mask, resample=2)
        >>> print(filled[0, 0, :2, 0])
        [0.5 0.5]
    """
    if jump < 1 or resample < 1:
        raise ValueError(
            f"jump and resample must be at least 1; got {jump} and {resample}"
        )
    image = floating(schedule, image)
    mask = _checked_mask(mask, image)
    image = jnp.where(mask == 0, 0.0, image)  # unknown pixels may hold anything
    moves = repaint_moves(schedule.num_steps, jump, resample)
    denoise, sampler, _ = prepared(denoise, schedule, sampler, image)
    key = threefry_key(key)
    x: Array = _inpaint(key, denoise, schedule, sampler, image, mask, moves)
    return x


def repaint_moves(num_steps: int, jump: int, resample: int) -> np.ndarray:
    """The walk of RePaint (Lugmayr et al. 2022, algorithm 1).

    A move down makes the step at the index, a move up noises from it to the next.

    Args:
        num_steps: T.
        jump: steps between two ways back up.
        resample: how often each stretch is walked down.

    Returns:
        An index, and whether the move there goes up, int32, shape (moves, 2).
    """
    moves: list[tuple[int, bool]] = []
    for low in reversed(range(0, num_steps, jump)):
        high = min(low + jump, num_steps)
        down = [(i, False) for i in range(high - 1, low - 1, -1)]
        # Up from x_{low - 1} to x_{high - 1}, to walk the stretch again.
        up = [(i, True) for i in range(low, high)]
        moves += (down + up) * (resample - 1) + down
    return np.array(moves, np.int32)


@jax.jit
def _inpaint(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    sampler: Sampler,
    image: Array,
    mask: Array,
    moves: Array,
) -> Array:
    def down(key: Array, x: Array, i: Array) -> Array:
        state = sampler.init(schedule, x)
        state, _ = sampler.step(fold_in(key, 0), denoise, schedule, state, i)
        noise = draw_noise(fold_in(key, 1), image)
        # Below index 0 lies the clean image.
        noised = q_sample(schedule, image, jnp.maximum(i - 1, 0), noise)
        known = jnp.where(i == 0, image, noised)
        both: Array = mask * known + (1 - mask) * state.x
        return both

    def up(key: Array, x: Array, i: Array) -> Array:
        return q_step(schedule, x, i, draw_noise(key, x))

    def body(x: Array, move: tuple[Array, Array]) -> tuple[Array, None]:
        place, (i, upward) = move
        x = jax.lax.cond(upward != 0, up, down, fold_in(key, place), x, i)
        return x, None

    x = draw_noise(fold_in(key, len(moves)), image)
    x, _ = jax.lax.scan(body, x, (jnp.arange(len(moves)), moves))
    return x


def _checked_mask(mask: Array, image: Array) -> Array:
    """The mask with as many axes as the image, each of size 1 or the image's."""
    full = (1,) * (image.ndim - mask.ndim) + mask.shape
    if len(full) != image.ndim or any(
        size not in (1, wanted) for size, wanted in zip(full, image.shape, strict=True)
    ):
        raise ValueError(
            f"the mask must have the shape of the image, {image.shape}, but for axes "
            f"of size 1 and the batch; got {mask.shape}"
        )
    return jnp.asarray(mask, image.dtype).reshape(full)

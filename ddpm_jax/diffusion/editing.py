"""What a denoiser is good for besides sampling: each use a function of one.

Images are (batch, *data) in [-1, 1]. `denoise`, `schedule` and `sampler` are those of
`samplers.sample`, and so is what is compiled when. A step is an index of the schedule.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .denoiser import Denoiser, Network
from .inpainting import inpaint as inpaint
from .inpainting import repaint_moves as repaint_moves
from .noise import Key, draw_noise, fold_in, threefry_key
from .samplers import Sampler, ddim, ddim_invert, ddpm, sample
from .samplers.base import floating
from .schedules import Schedule
from .transitions import q_sample

_DDPM = ddpm()


def image_to_image(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    image: Array,
    *,
    start_index: int,
    sampler: Sampler = _DDPM,
) -> Array:
    """Images like `image`: noised to index `start_index` and sampled down from there.

    SDEdit (Meng et al. 2022). The larger the index, the less is left of the image.
    Consumes `key`.

    Args:
        key: one key, or (batch,) of them, one per image; or a seed.
        denoise: as `samplers.sample` takes it.
        schedule: the chain.
        image: (batch, *data) in [-1, 1].
        start_index: in 0..T-1.
        sampler: the way down.

    Returns:
        Images, (batch, *data), in [-1, 1] or nearly.

    Raises:
        ValueError: if the index lies outside the chain.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import editing, samplers, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):
        ...     return jnp.zeros_like(x)
        >>> edited = editing.image_to_image(
        ...     0, network, schedule, jnp.zeros((2, 8, 8, 1)), start_index=300
        ... )
        >>> edited.shape
        (2, 8, 8, 1)
    """
    image = floating(schedule, image)
    noise = draw_noise(fold_in(key, schedule.num_steps), image)
    return sample(
        key,
        denoise,
        schedule,
        image.shape,
        sampler=sampler,
        x_init=q_sample(schedule, image, jnp.asarray(start_index), noise),
        start_index=start_index,
    )


def interpolate(
    key: Key,
    denoise: Denoiser | Network,
    schedule: Schedule,
    first: Array,
    second: Array,
    weights: Array,
    *,
    start_index: int,
    sampler: Sampler = _DDPM,
) -> Array:
    """Images between two, mixed at index `start_index` (Ho et al. 2020, section 4.4).

    Both images are noised to that index, each with one noise for all weights, mixed
    linearly there, and sampled down, with the same noises for all weights.

    Args:
        key: one key, which is consumed, or a seed.
        denoise: as `samplers.sample` takes it.
        schedule: the chain.
        first: one image in [-1, 1], (*data,) without a batch axis.
        second: another.
        weights: shares of the second image, (count,).
        start_index: in 0..T-1.
        sampler: the way down.

    Returns:
        Images, (count, *data).

    Raises:
        ValueError: if the images differ in shape, or the index is outside the chain.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import editing, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):
        ...     return jnp.zeros_like(x)
        >>> first, second = jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))
        >>> weights = jnp.linspace(0, 1, 5)
        >>> editing.interpolate(
        ...     0, network, schedule, first, second, weights, start_index=100
        ... ).shape
        (5, 8, 8, 1)
    """
    pair = floating(schedule, _pair(first, second))
    key_encode, key_decode = jax.random.split(threefry_key(key))
    noise = draw_noise(key_encode, pair)
    low, high = q_sample(schedule, pair, jnp.asarray(start_index), noise)
    weights = _column(weights, first)
    mixed = (1 - weights) * low[None] + weights * high[None]
    return sample(
        jnp.broadcast_to(key_decode, weights.shape[:1]),
        denoise,
        schedule,
        mixed.shape,
        sampler=sampler,
        x_init=mixed,
        start_index=start_index,
    )


def interpolate_latents(
    denoise: Denoiser | Network,
    schedule: Schedule,
    first: Array,
    second: Array,
    weights: Array,
) -> Array:
    """Images between two along the great circle of their latents (DDIM, section 5.3).

    Both are inverted by `ddim_invert`, mixed by `slerp` and decoded by `ddim`: without
    any noise, and weights 0 and 1 give back the images as far as inversion does, which
    a denoiser that clips does not.

    Args:
        denoise: as `samplers.sample` takes it.
        schedule: the chain.
        first: one image in [-1, 1], (*data,) without a batch axis.
        second: another.
        weights: shares of the second image, (count,).

    Returns:
        Images, (count, *data).

    Raises:
        ValueError: if the images differ in shape, or the denoiser cannot work on the
            schedule.
    """
    low, high = ddim_invert(denoise, schedule, _pair(first, second))
    x = slerp(low, high, weights)
    unused = jax.random.key(0)  # nothing is drawn
    return sample(unused, denoise, schedule, x.shape, sampler=ddim(), x_init=x)


def slerp(first: Array, second: Array, weights: Array) -> Array:
    """Points between two vectors along the great circle (DDIM, section 5.3).

        sin((1 - w) angle) / sin(angle) first + sin(w angle) / sin(angle) second

    Unlike a line it keeps the length, which is what tells noise from less noise. Where
    the vectors are parallel, or one is zero, it is the line.

    Args:
        first: (*data,), without a batch axis.
        second: of the same shape.
        weights: shares of the second, (count,), in [0, 1].

    Returns:
        The points, (count, *data).

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import editing
        >>> east, north = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> between = editing.slerp(east, north, jnp.array([0.0, 0.5, 1.0]))
        >>> print(np.asarray(between).round(3))
        [[1.    0.   ]
         [0.707 0.707]
         [0.    1.   ]]
    """
    weights = _column(weights, first)
    length = jnp.linalg.norm(first.ravel()) * jnp.linalg.norm(second.ravel())
    # A vector without length has no direction: the line, as for parallel ones.
    cosine = jnp.where(length > 0, jnp.vdot(first, second) / length, 1.0)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    straight = jnp.sin(angle) < 1e-4
    safe = jnp.where(straight, 1.0, jnp.sin(angle))
    low = jnp.where(straight, 1 - weights, jnp.sin((1 - weights) * angle) / safe)
    high = jnp.where(straight, weights, jnp.sin(weights * angle) / safe)
    return low * first[None] + high * second[None]


def _pair(first: Array, second: Array) -> Array:
    if first.shape != second.shape:
        raise ValueError(
            f"two images must have one shape; got {first.shape} and {second.shape}"
        )
    return jnp.stack([first, second])


def _column(weights: Array, like: Array) -> Array:
    weights = jnp.asarray(weights, like.dtype)
    return weights.reshape(weights.shape + (1,) * like.ndim)

"""What a denoiser is good for besides sampling: each use a function of one.

Images are (batch, *data) in [-1, 1]. `denoise`, `schedule` and `sampler` are those of
`samplers.sample`, and so is what is compiled when. A step is an index of the schedule.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.ancestral import ddpm
from ddpm_jax.diffusion.bound import as_pytree
from ddpm_jax.diffusion.ddim import ddim, ddim_invert
from ddpm_jax.diffusion.noise import draw_noise, fold_in, threefry_key
from ddpm_jax.diffusion.sampling import sample
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.stepping import Denoise, Sampler, floating
from ddpm_jax.diffusion.transitions import Predict, from_eps, q_sample, q_step

_DDPM = ddpm()


def image_to_image(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    image: jax.Array,
    *,
    start_index: int,
    sampler: Sampler = _DDPM,
) -> jax.Array:
    """Images like `image`: noised to index `start_index` and sampled down from there.

    SDEdit (Meng et al. 2022). The larger the index, the less is left of the image.
    Consumes `key`, one or (batch,) of them.

    Raises:
        ValueError: if the index lies outside the chain.
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
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    first: jax.Array,
    second: jax.Array,
    weights: jax.Array,
    *,
    start_index: int,
    sampler: Sampler = _DDPM,
) -> jax.Array:
    """Images between two, mixed at index `start_index` (Ho et al. 2020, section 4.4).

    Both images are noised to that index, each with one noise for all weights, mixed
    linearly there, and sampled down, with the same noises for all weights.
    Consumes `key`.

    Args:
        key: one key.
        first, second: one image each, (*data,) without a batch axis.
        weights: (count,) shares of the second image.

    Returns:
        (count, *data).

    Raises:
        ValueError: if the images differ in shape, or the index is outside the chain.
    """
    _check_pair(first, second)
    pair = floating(schedule, jnp.stack([first, second]))
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
    denoise: Denoise,
    schedule: Schedule,
    first: jax.Array,
    second: jax.Array,
    weights: jax.Array,
    *,
    predict: Predict = from_eps,
) -> jax.Array:
    """Images between two along the great circle of their latents (DDIM, section 5.3).

    Both are inverted by `ddim_invert`, mixed by `slerp` and decoded by `ddim`: without
    any noise, and weights 0 and 1 give back the images as far as inversion does.

    Args:
        first, second, weights: as for `interpolate`.

    Returns:
        (count, *data).

    Raises:
        ValueError: if the images differ in shape.
    """
    _check_pair(first, second)
    pair = jnp.stack([first, second])
    low, high = ddim_invert(denoise, schedule, pair, predict=predict)
    latents = slerp(low, high, weights)
    return sample(
        jax.random.key(0),  # nothing is drawn
        denoise,
        schedule,
        latents.shape,
        sampler=ddim(predict=predict, clip=None),
        x_init=latents,
    )


def slerp(first: jax.Array, second: jax.Array, weights: jax.Array) -> jax.Array:
    """Points between two vectors along the great circle, (count, *data).

        sin((1 - w) angle) / sin(angle) first + sin(w angle) / sin(angle) second

    Unlike a line it keeps the length, which is what tells noise from less noise. Where
    the vectors are parallel, or one is zero, it is the line.
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


def inpaint(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    image: jax.Array,
    mask: jax.Array,
    *,
    sampler: Sampler = _DDPM,
    jump: int = 10,
    resample: int = 10,
) -> jax.Array:
    """`image` where the mask is 1, and what the denoiser thinks fits elsewhere.

    RePaint (Lugmayr et al. 2022, algorithm 1): each step down takes the known pixels
    from the noised image and the others from the sampler; every `jump` steps the chain
    goes back up by as many and comes down again, `resample` times in all, so that the
    two parts come to agree. Network calls: about T * resample.

    Consumes `key`, one or (batch,) of them. The sampler starts afresh at every step,
    so a multistep solver has order 1 here.

    Args:
        mask: 1 for known and 0 for unknown, of the shape of `image`, or with one
            channel, or without the batch axis.
        jump: how many steps the chain goes back up at a time; >= 1.
        resample: how often each stretch is walked; 1 is plain masking.

    Raises:
        ValueError: if the mask has another shape, or jump or resample is below 1.
    """
    image = floating(schedule, image)
    mask = _checked_mask(mask, image)
    if jump < 1 or resample < 1:
        raise ValueError(
            f"jump and resample must be at least 1; got {jump} and {resample}"
        )
    moves = repaint_moves(schedule.num_steps, jump, resample)
    sampler = Sampler(*map(as_pytree, sampler))
    sampler.init(schedule, image)  # refuses a schedule that it cannot work on
    return _inpaint(key, as_pytree(denoise), schedule, sampler, image, mask, moves)


def repaint_moves(num_steps: int, jump: int, resample: int) -> np.ndarray:
    """The walk of RePaint, (moves, 2): an index, and whether the move there goes up.

    A move down makes the step at the index, a move up noises from it to the next.
    """
    moves: list[tuple[int, bool]] = []
    stretches = [(low, min(low + jump, num_steps)) for low in range(0, num_steps, jump)]
    for low, high in reversed(stretches):
        down = [(i, False) for i in range(high - 1, low - 1, -1)]
        # Up from x_{low - 1} to x_{high - 1}, to walk the stretch again.
        up = [(i, True) for i in range(low, high)]
        moves += (down + up) * (resample - 1) + down
    return np.array(moves, np.int32)


@jax.jit
def _inpaint(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    sampler: Sampler,
    image: jax.Array,
    mask: jax.Array,
    moves: jax.Array,
) -> jax.Array:
    def down(key: jax.Array, x: jax.Array, i: jax.Array) -> jax.Array:
        state = sampler.init(schedule, x)
        state, _ = sampler.step(fold_in(key, 0), denoise, schedule, state, i)
        noise = draw_noise(fold_in(key, 1), image)
        # Below index 0 lies the clean image.
        noised = q_sample(schedule, image, jnp.maximum(i - 1, 0), noise)
        known = jnp.where(i == 0, image, noised)
        return mask * known + (1 - mask) * state.x

    def up(key: jax.Array, x: jax.Array, i: jax.Array) -> jax.Array:
        return q_step(schedule, x, i, draw_noise(key, x))

    def body(x: jax.Array, move: Any) -> tuple[jax.Array, None]:
        place, (i, upward) = move
        return jax.lax.cond(upward != 0, up, down, fold_in(key, place), x, i), None

    x = draw_noise(fold_in(key, moves.shape[0]), image)
    x, _ = jax.lax.scan(body, x, (jnp.arange(moves.shape[0]), moves))
    return x


def _check_pair(first: jax.Array, second: jax.Array) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"two images must have one shape; got {first.shape} and {second.shape}"
        )


def _checked_mask(mask: jax.Array, image: jax.Array) -> jax.Array:
    full = (1,) * (image.ndim - mask.ndim) + mask.shape
    if len(full) != image.ndim or any(
        size not in (1, wanted) for size, wanted in zip(full, image.shape, strict=True)
    ):
        raise ValueError(
            f"the mask must have the shape of the image, {image.shape}, but for axes "
            f"of size 1 and the batch; got {mask.shape}"
        )
    return jnp.asarray(mask, image.dtype).reshape(full)


def _column(weights: jax.Array, like: jax.Array) -> jax.Array:
    weights = jnp.asarray(weights, like.dtype)
    return weights.reshape(weights.shape + (1,) * like.ndim)

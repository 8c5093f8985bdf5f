"""The uses of a denoiser: between two images, within one, and around a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.editing import (
    image_to_image,
    inpaint,
    interpolate,
    interpolate_latents,
    repaint_moves,
    slerp,
)
from ddpm_jax.diffusion.samplers import ddim, ddpm, sample
from ddpm_jax.diffusion.schedules import (
    at,
    linear_betas,
    make_schedule,
    spaced_timesteps,
)

BETAS = linear_betas(1000)
SCHEDULE = make_schedule(
    BETAS, timesteps=spaced_timesteps(1000, 20, spacing="trailing")
)
FULL = make_schedule(BETAS)
IMAGES = jnp.asarray(np.linspace(-0.9, 0.9, 32).reshape(2, 4, 4), jnp.float32)


def normal(x, t):
    """The exact network for data N(0, 0.5^2)."""
    alpha = at(FULL.sqrt_alphas_cumprod, t, x)
    sigma = at(FULL.sqrt_one_minus_alphas_cumprod, t, x)
    return sigma * x / (0.25 * alpha**2 + sigma**2)


def constant_rows(x, t):
    """The exact network for images whose numbers are all one, +0.5 or -0.5."""
    alpha = at(FULL.sqrt_alphas_cumprod, t, x)
    sigma = at(FULL.sqrt_one_minus_alphas_cumprod, t, x)
    evidence = jnp.sum(x, axis=(1, 2), keepdims=True) * alpha / sigma**2
    return (x - alpha * 0.5 * jnp.tanh(0.5 * evidence)) / sigma


def test_image_to_image_keeps_more_the_later_it_starts():
    key, distances = jax.random.key(0), []
    for start in (0, 5, 19):
        x0 = image_to_image(key, normal, SCHEDULE, IMAGES, start_index=start)
        distances.append(np.sqrt(np.mean(np.square(x0 - IMAGES))))
    assert distances[0] < 0.2 < distances[1] < distances[2]
    # From the last index nothing of the image is left.
    assert abs(np.corrcoef(np.ravel(x0), np.ravel(IMAGES))[0, 1]) < 0.6
    with pytest.raises(ValueError, match=r"0\.\.19"):
        image_to_image(key, normal, SCHEDULE, IMAGES, start_index=20)


def test_image_to_image_with_a_key_per_example():
    keys = jax.random.split(jax.random.key(1), 2)
    both = image_to_image(keys, normal, SCHEDULE, IMAGES, start_index=10)
    one = image_to_image(keys[1:], normal, SCHEDULE, IMAGES[1:], start_index=10)
    np.testing.assert_allclose(both[1], one[0], atol=1e-6)


def test_interpolation_shares_its_noises():
    """Its ends are the reconstructions of the images, and all between is linear here.

    For a linear network, without clipping, the whole walk is affine in x_t.
    """
    weights = jnp.asarray([0.0, 0.25, 0.5, 1.0])
    mixed = interpolate(
        jax.random.key(2),
        normal,
        FULL,
        IMAGES[0],
        IMAGES[1],
        weights,
        start_index=30,
    )
    assert mixed.shape == (4, 4, 4)
    np.testing.assert_allclose(mixed[2], (mixed[0] + mixed[3]) / 2, atol=1e-5)
    np.testing.assert_allclose(mixed[1], 0.75 * mixed[0] + 0.25 * mixed[3], atol=1e-5)
    for end, image in ((mixed[0], IMAGES[0]), (mixed[3], IMAGES[1])):
        np.testing.assert_allclose(np.mean(end), np.mean(image), atol=0.1)


def test_interpolation_of_latents_gives_the_images_back_at_its_ends():
    weights = jnp.asarray([0.0, 0.5, 1.0])
    fine = make_schedule(BETAS, timesteps=spaced_timesteps(1000, 100, spacing="ddim"))
    mixed = interpolate_latents(normal, fine, IMAGES[0], IMAGES[1], weights)
    np.testing.assert_allclose(mixed[0], IMAGES[0], atol=0.06)
    np.testing.assert_allclose(mixed[2], IMAGES[1], atol=0.06)
    assert np.all(np.isfinite(mixed[1]))


def test_slerp_keeps_lengths_and_angles():
    first, second = jnp.asarray([[3.0, 0.0]]), jnp.asarray([[0.0, 3.0]])
    points = slerp(first, second, jnp.asarray([0.0, 1 / 3, 1.0]))[:, 0]
    angles = np.arctan2(points[:, 1], points[:, 0])
    np.testing.assert_allclose(angles, [0, np.pi / 6, np.pi / 2], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3, rtol=1e-6)
    same = slerp(first, 2 * first, jnp.asarray([0.5]))[0]
    np.testing.assert_allclose(same, 1.5 * first, rtol=1e-6)


@pytest.mark.parametrize("sampler", [ddpm(), ddim()])
def test_inpainting_keeps_what_is_known_and_agrees_with_it(sampler):
    """Where data are constant images, the unknown half takes the sign of the known."""
    image = jnp.stack([jnp.full((4, 4), 0.5), jnp.full((4, 4), -0.5)])
    mask = jnp.zeros((4, 4)).at[0].set(1.0)
    for seed in range(2):
        x0 = inpaint(
            jax.random.key(seed),
            constant_rows,
            SCHEDULE,
            image,
            mask,
            sampler=sampler,
            jump=5,
            resample=4,
        )
        np.testing.assert_array_equal(x0[:, 0], image[:, 0])
        np.testing.assert_allclose(x0, image, atol=0.02)


def test_unknown_pixels_may_hold_anything():
    mask = jnp.zeros((4, 4)).at[0].set(1.0)
    holes = jnp.where(mask == 0, jnp.nan, IMAGES)
    how = {"jump": 3, "resample": 2}
    x0 = inpaint(jax.random.key(0), normal, SCHEDULE, holes, mask, **how)
    same = inpaint(jax.random.key(0), normal, SCHEDULE, IMAGES, mask, **how)
    np.testing.assert_array_equal(x0, same)


def test_a_full_mask_is_the_image_and_an_empty_one_is_sampling():
    key, full = jax.random.key(4), jnp.ones((2, 4, 4))
    x0 = inpaint(key, normal, SCHEDULE, IMAGES, full, resample=1)
    np.testing.assert_array_equal(x0, IMAGES)
    wide = jnp.zeros((256, 4, 4))
    x0 = inpaint(key, normal, SCHEDULE, wide, 0 * wide, resample=2, jump=3)
    plain = sample(key, normal, SCHEDULE, wide.shape)
    np.testing.assert_allclose(np.std(x0), np.std(plain), rtol=0.06)


def test_the_walk_of_repaint():
    moves = repaint_moves(4, 2, 2).tolist()
    assert moves == [
        [3, 0], [2, 0], [2, 1], [3, 1], [3, 0], [2, 0],
        [1, 0], [0, 0], [0, 1], [1, 1], [1, 0], [0, 0],
    ]  # fmt: skip
    assert len(repaint_moves(250, 10, 10)) == 250 * 10 + 250 * 9
    np.testing.assert_array_equal(repaint_moves(3, 9, 1)[:, 0], [2, 1, 0])


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 4, 4), (2, 4, 4, 1), (4,)])
def test_a_mask_of_another_shape_is_refused(shape):
    mask = jnp.ones(shape)
    if shape == (4,):  # one row for all: that is a mask
        inpaint(jax.random.key(0), normal, SCHEDULE, IMAGES, mask, resample=1)
        return
    with pytest.raises(ValueError, match="mask must have the shape of the image"):
        inpaint(jax.random.key(0), normal, SCHEDULE, IMAGES, mask)


def test_what_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="resample must be at least 1; got 10 and 0"):
        inpaint(key, normal, SCHEDULE, IMAGES, jnp.ones((4, 4)), resample=0)
    with pytest.raises(ValueError, match="two images must have one shape"):
        interpolate_latents(normal, SCHEDULE, IMAGES[0], IMAGES[1, :2], jnp.ones(1))

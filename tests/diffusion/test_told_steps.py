"""Which steps and which noise levels editing and inversion tell the network.

With jit off a plain function sees concrete numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import editing, samplers, schedules
from ddpm_jax.diffusion.noise import draw_noise, fold_in

BETAS = schedules.linear_betas(40, start=0.01, end=0.4)
CHAIN = schedules.make_schedule(BETAS, timesteps=np.array([2, 9, 17, 30, 39]))
BAR = np.cumprod(1 - BETAS)
KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.linspace(-0.9, 0.9, 16).reshape(2, 8), jnp.float32)


class Spy:
    """A network that is asked for eps and keeps what it was told."""

    def __init__(self):
        self.t, self.x = [], []

    def __call__(self, x, t):
        assert len(set(np.asarray(t).tolist())) == 1
        self.t.append(int(t[0]))
        self.x.append(np.asarray(x))
        return 0.3 * x


@pytest.fixture
def spy():
    with jax.disable_jit():
        yield Spy()


def noised(image, step, noise):
    return np.sqrt(BAR[step]) * image + np.sqrt(1 - BAR[step]) * noise


def test_inversion_starts_with_the_image_at_the_first_step(spy):
    latent = samplers.ddim_invert(spy, CHAIN, IMAGES)
    assert spy.t == [2, 2, 9, 17, 30]  # the step of the point that is left
    np.testing.assert_array_equal(spy.x[0], IMAGES)
    x = np.asarray(IMAGES, np.float64)
    before = 1.0
    for i, step in enumerate([2, 9, 17, 30, 39]):
        np.testing.assert_allclose(spy.x[i], x, atol=1e-4)
        eps = 0.3 * x
        x0 = (x - np.sqrt(1 - before) * eps) / np.sqrt(before)
        x, before = noised(x0, step, eps), BAR[step]
    np.testing.assert_allclose(latent, x, atol=1e-4)


@pytest.mark.parametrize("start", [0, 2, 4])
def test_an_image_is_noised_to_the_step_that_is_told_first(spy, start):
    editing.image_to_image(KEY, spy, CHAIN, IMAGES, start_index=start)
    steps = [2, 9, 17, 30, 39][: start + 1]
    assert spy.t == steps[::-1]
    noise = draw_noise(fold_in(KEY, 5), IMAGES)
    np.testing.assert_allclose(spy.x[0], noised(IMAGES, steps[-1], noise), atol=1e-5)


def test_two_images_are_mixed_at_the_step_that_is_told_first(spy):
    weights = jnp.array([0.0, 0.25, 1.0])
    editing.interpolate(KEY, spy, CHAIN, *IMAGES, weights, start_index=3)
    assert spy.t == [30, 17, 9, 2]
    noise = draw_noise(jax.random.split(KEY)[0], IMAGES)
    low, high = np.asarray(noised(IMAGES, 30, noise))
    w = np.asarray(weights)[:, None]
    np.testing.assert_allclose(spy.x[0], (1 - w) * low + w * high, atol=1e-5)


def test_latents_are_mixed_at_the_end_of_the_chain(spy):
    weights = jnp.array([0.0, 0.5, 1.0])
    editing.interpolate_latents(spy, CHAIN, *IMAGES, weights)
    assert spy.t == [2, 2, 9, 17, 30, 39, 30, 17, 9, 2]
    low, high = samplers.ddim_invert(Spy(), CHAIN, IMAGES)
    np.testing.assert_allclose(spy.x[5][0], low, atol=1e-5)
    np.testing.assert_allclose(spy.x[5][2], high, atol=1e-5)
    a, b = (np.asarray(x, np.float64) for x in (low, high))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    middle = (a + b) * np.sin(angle / 2) / np.sin(angle)
    np.testing.assert_allclose(spy.x[5][1], middle, atol=1e-4)


def test_what_is_given_is_as_noisy_as_the_step_that_is_told(spy):
    """Of a constant image all of whose pixels are given, x_t is known at every call."""
    image = jnp.full((2000, 4), 0.5)
    x0 = editing.inpaint(KEY, spy, CHAIN, image, jnp.ones(4), jump=2, resample=2)
    # Down 4, up and down again by stretches of 2 steps, from the end of the chain.
    assert spy.t == [39, 39, 30, 17, 30, 17, 9, 2, 9, 2]
    for step, x in list(zip(spy.t, spy.x, strict=True))[1:]:
        error = np.sqrt((1 - BAR[step]) / x.size)
        assert abs(np.mean(x) - 0.5 * np.sqrt(BAR[step])) < 5 * error, step
        np.testing.assert_allclose(np.std(x), np.sqrt(1 - BAR[step]), rtol=0.05)
    np.testing.assert_allclose(np.std(spy.x[0]), 1, rtol=0.05)
    np.testing.assert_array_equal(x0, image)


def test_inpainting_has_ten_jumps_of_ten_steps_unless_told():
    """What is left out is what the paper uses."""
    moves = editing.repaint_moves(5, 10, 10)
    assert len(moves) == 5 * 10 + 5 * 9
    with jax.disable_jit():
        spy = Spy()
        editing.inpaint(KEY, spy, CHAIN, IMAGES, jnp.zeros(8))
    assert spy.t == moves_down(moves)


def moves_down(moves):
    steps = [2, 9, 17, 30, 39]
    return [steps[i] for i, up in moves if not up]

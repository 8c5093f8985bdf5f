"""All of diffusion/ under strict dtype promotion, which some programs set."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import editing, losses, samplers, schedules, transitions
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.guidance import classifier_free, clip_dynamic, clip_static
from ddpm_jax.diffusion.importance import loss_second_moment, uniform_steps
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.diffusion.solver_spacing import interpolated_schedule

BETAS = schedules.linear_betas(6, start=0.1, end=0.4)
SCHEDULE = schedules.make_schedule(BETAS)
BETWEEN = interpolated_schedule(BETAS, np.array([0.5, 2.25, 5.0]))
SHAPE = (2, 2, 2, 1)
IMAGES = np.linspace(-0.9, 0.9, 8, dtype=np.float32).reshape(SHAPE)
SAMPLERS = {
    "ddpm": samplers.ddpm(),
    "ddim": samplers.ddim(eta=0.5),
    "1": samplers.dpm_solver_pp(order=1),
    "2M": samplers.dpm_solver_pp(),
    "3M": samplers.dpm_solver_pp(order=3),
    "SDE": samplers.dpm_solver_pp(stochastic=True),
    "unipc": samplers.unipc(),
    "heun": samplers.heun(),
    "churn": samplers.heun(churn=3.0),
    "churn between": samplers.heun(churn=3.0, trained_on=SCHEDULE),
}


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def denoise(x, t):
    return 0.1 * x


def learned(x, t):
    return jnp.concatenate([0.1 * x, 0.3 * x], axis=-1)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [SCHEDULE, BETWEEN])
def test_samplers(name, schedule):
    for clip in (None, clip_static(), clip_dynamic()):
        read = denoiser(denoise, clip=clip)
        draw = partial(samplers.sample, sampler=SAMPLERS[name])
        # Types are settled while a program is traced: it need not be compiled.
        traced = partial(draw, denoise=read, schedule=schedule, shape=SHAPE)
        assert jax.eval_shape(traced, jax.random.key(0)).dtype == jnp.float32


def test_a_learned_variance_and_guidance():
    label = jnp.zeros(2, jnp.int32)
    guided = classifier_free(lambda x, t, label: learned(x, t), label, 1, 2.0)
    for network in (learned, guided):
        read = denoiser(network, variance=transitions.learned_range)
        x = samplers.sample(jax.random.key(0), read, SCHEDULE, SHAPE)
        assert np.all(np.isfinite(x))
    samplers.ddim_invert(denoise, SCHEDULE, IMAGES)


@pytest.mark.parametrize("name", ["from_eps", "from_x0", "from_v"])
def test_losses(name):
    predict = getattr(transitions, name)
    t, noise = jnp.array([0, 5], jnp.int32), jnp.full(SHAPE, 0.3)
    xt = transitions.q_sample(SCHEDULE, IMAGES, t, noise)
    common = (SCHEDULE, IMAGES, xt, t, noise)
    for weight in (None, losses.min_snr(predict=predict), losses.p2(predict=predict)):
        how = {"predict": predict, "weight": weight}
        losses.simple_loss(*common, 0.1 * xt, **how)
        losses.hybrid_loss(*common, learned(xt, t), **how)
    losses.vlb_term(*common, 0.1 * xt, predict=predict)
    read = denoiser(denoise, predict=predict)
    bound = bits_per_dim(jax.random.key(0), read, SCHEDULE, IMAGES)
    assert np.all(np.isfinite(bound.total))
    transitions.q_step(SCHEDULE, xt, t, noise)


def test_edits():
    key, weights = jax.random.key(0), jnp.array([0.0, 0.5, 1.0])
    pair = (IMAGES[0], IMAGES[1])
    editing.image_to_image(key, denoise, SCHEDULE, IMAGES, start_index=3)
    editing.interpolate(key, denoise, SCHEDULE, *pair, weights, start_index=3)
    editing.interpolate_latents(denoise, SCHEDULE, *pair, weights)
    for sampler in (samplers.ddpm(), samplers.unipc(), samplers.heun(churn=3.0)):
        mask = jnp.ones((2, 2, 1))
        how = {"sampler": sampler, "jump": 2, "resample": 2}
        x = editing.inpaint(key, denoise, SCHEDULE, IMAGES, mask, **how)
        np.testing.assert_allclose(x, IMAGES)


@pytest.mark.parametrize("make", [uniform_steps, loss_second_moment])
def test_the_steps_of_training(make):
    drawn = make(6)
    keys = jax.random.split(jax.random.key(0), 4)
    state = drawn.init()
    t, weights = drawn.draw(state, keys)
    assert t.dtype == jnp.int32 and weights.dtype == jnp.float32
    drawn.update(state, t, jnp.ones(4))

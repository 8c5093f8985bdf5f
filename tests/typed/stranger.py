"""What somebody writes who has only installed the package: it is checked, not run.

`mypy --strict` reads the package's types as its users do, through `py.typed`.
"""

from typing import NamedTuple, assert_type

import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import data, export, images
from ddpm_jax.config import Config, DataConfig, TrainConfig
from ddpm_jax.data import ImageArrays, stream_batches
from ddpm_jax.diffusion import (
    editing,
    guidance,
    likelihood,
    losses,
    samplers,
    schedules,
    solver_spacing,
    transitions,
)
from ddpm_jax.diffusion.denoiser import Denoiser, Estimate, denoiser
from ddpm_jax.diffusion.likelihood import BitsPerDim
from ddpm_jax.diffusion.parametrisations import Parametrisation
from ddpm_jax.diffusion.samplers import Sampler, StepInfo
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.networks import UNet
from ddpm_jax.training.loop import Outcome


# A run on arrays of one's own, and what its model can do.
def train_and_draw(pixels: np.ndarray, labels: np.ndarray) -> jax.Array:
    config = Config(
        data=DataConfig(source="given", num_classes=10),
        train=TrainConfig(num_steps=1000),
    )
    outcome = ddpm_jax.train(config, "runs/own", data=(pixels, labels))
    assert_type(outcome, Outcome)
    model = ddpm_jax.load("runs/own", weights="ema")
    assert_type(model, ddpm_jax.Model)
    assert_type(model.image_shape, tuple[int, int, int])
    drawn = model.sample(0, num=16, sampler="ddim", steps=20, label=[3] * 16)
    assert_type(drawn, jax.Array)
    for index, x in model.sample_iter(jax.random.key(1), 4, guidance=2.0, label="3"):
        assert_type(index, int)
        assert_type(x, jax.Array)
    bound = model.bits_per_dim(0, drawn)
    assert_type(bound, BitsPerDim)
    assert_type(bound.total, jax.Array)
    between = model.interpolate(0, drawn[0], drawn[1], jnp.linspace(0, 1, 5))
    mask = jnp.ones((8, 8, 1))
    filled = model.inpaint(0, model.image_to_image(0, drawn, start=0.3), mask)
    latents = model.invert(filled, steps=50)
    model.show(between).save("between.png")
    model.export("sampler.stablehlo", steps=20, platforms=("cpu",))
    export.export_sampler(model, "sampler.stablehlo", sampler=samplers.ddim())
    sampler, chain = model.walk("unipc", steps=10)
    assert_type(sampler, Sampler)
    return samplers.sample(0, model.denoiser(), chain, drawn.shape, x_init=latents)


# Data.
def own_digits() -> ImageArrays:
    digits = data.load_digits("test")
    assert_type(digits.images, np.ndarray)
    batch = next(stream_batches(digits, seed=0, batch_size=8))
    assert_type(batch, dict[str, np.ndarray])
    images.save_png("grid.png", images.grid(digits.images[:64]))
    return digits


# The mathematics alone, with a network of one's own.
def network(x: jax.Array, t: jax.Array) -> jax.Array:
    return 0.5 * x * jnp.ones_like(t, float).reshape(-1, *(1,) * (x.ndim - 1))


def conditional(x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
    return network(x, t) + label.reshape(-1, *(1,) * (x.ndim - 1))


def chains() -> list[Schedule]:
    betas = schedules.cosine_betas(1000)
    kept = schedules.spaced_timesteps(1000, 50, spacing="trailing")
    positions = solver_spacing.log_snr_positions(betas, 20)
    return [
        schedules.make_schedule(schedules.zero_terminal_snr(betas)),
        schedules.make_schedule(betas, timesteps=kept),
        solver_spacing.interpolated_schedule(betas, positions),
    ]


def loss(schedule: Schedule, x0: jax.Array, key: jax.Array) -> jax.Array:
    t = jnp.full(len(x0), 10)
    noise = jax.random.normal(key, x0.shape)
    xt = transitions.q_sample(schedule, x0, t, noise)
    weight = losses.min_snr(predict=transitions.from_eps)
    output = network(xt, t)
    each = losses.simple_loss(schedule, x0, xt, t, noise, output, weight=weight)
    return jnp.mean(each)


def draw(schedule: Schedule) -> jax.Array:
    clip = guidance.clip_dynamic(0.995)
    denoise = denoiser(network, predict=transitions.from_v, clip=clip)
    assert_type(denoise, Denoiser)
    estimate = denoise(schedule, jnp.zeros((2, 3)), jnp.array(0))
    assert_type(estimate, Estimate)
    guided = guidance.classifier_free(conditional, jnp.array(3), 10, scale=2.0)
    ways = [
        samplers.ddpm(),
        samplers.ddim(eta=0.5),
        samplers.dpm_solver_pp(order=3),
        samplers.heun(churn=4.0),
        samplers.unipc(),
        own_sampler(),
    ]
    for way in ways:
        samplers.sample(0, guided, schedule, (4, 8, 8, 1), sampler=way)
    for _, x in samplers.sample_iter(0, denoise, schedule, (4, 3), every=10):
        assert_type(x, jax.Array)
    bound = likelihood.bits_per_dim(
        jax.random.key(0), denoise, schedule, jnp.zeros((2, 3))
    )
    edited = editing.image_to_image(
        0, network, schedule, jnp.zeros((2, 3)), start_index=9
    )
    return edited + bound.total[:, None]


# A denoiser that is no network: the best one for data at a point.
def at_a_point(
    schedule: Schedule, x: jax.Array, i: jax.Array, *, data: jax.Array
) -> Estimate:
    said = transitions.from_x0(schedule, x, i, jnp.broadcast_to(data, x.shape))
    spread = transitions.fixed_small(schedule, i, None, x)
    return Estimate(said.x0, said.eps, spread)


def draw_the_point(schedule: Schedule) -> jax.Array:
    denoise = Denoiser(at_a_point, data=jnp.full((1, 3), 0.5))
    return samplers.sample(jax.random.key(0), denoise, schedule, (4, 3))


# A sampler of one's own, with a state.
class Counted(NamedTuple):
    x: jax.Array
    calls: jax.Array


def own_sampler() -> Sampler:
    def init(schedule: Schedule, x: jax.Array) -> Counted:
        return Counted(x, jnp.zeros((), int))

    def step(
        key: jax.Array,
        denoise: Denoiser,
        schedule: Schedule,
        state: Counted,
        i: jax.Array,
    ) -> tuple[Counted, StepInfo]:
        said = denoise(schedule, state.x, i)
        x = samplers.ddim_update(schedule, state.x, i, said)
        return Counted(x, state.calls + 1), StepInfo(said.x0)

    return Sampler(init, step)


# A parametrisation of one's own, and a network of the package's.
own_parametrisation = Parametrisation(
    "own", transitions.from_x0, lambda schedule, x0, t, noise: x0
)
unet = UNet(out_channels=3, channels=32, multipliers=(1, 2))
distance: float = frechet_distance(np.zeros(2), np.eye(2), np.ones(2), np.eye(2))

"""diffusers loads what we export, and its samplers walk where ours walk.

The optional group: it needs PyTorch and diffusers, and is skipped without them.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

import ddpm_jax
from ddpm_jax import build
from ddpm_jax.config import (
    ClipConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    ScheduleConfig,
)
from ddpm_jax.diffusion import samplers
from ddpm_jax.diffusion.samplers import ddim_update, ddpm_update
from ddpm_jax.interop import load
from ddpm_jax.interop.read import read_model
from ddpm_jax.interop.save import save_diffusers

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # its threads and XLA's would wait for each other
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, on their own imports

DDPM = {"channels": 8, "num_blocks": 1, "num_groups": 4}
DDPM |= {"multipliers": (1, 2), "attention_resolutions": (4,)}
IMPROVED = {**DDPM, "norm_eps": 1e-5, "cos_first": True, "freq_shift": 0}
IMPROVED |= {"downsample_padding": (1, 1), "scale_shift": True, "num_heads": 2}
NETWORKS = {
    "ddpm": DDPM,
    "improved": IMPROVED,
    "no norm": {**IMPROVED, "mid_attention_norm": False},
    "guided": {**IMPROVED, "head_channels": 4, "resblock_updown": True},
    "uneven": {**DDPM, "multipliers": (1, 1.5)},
}
SHAPE, SHAPE_NCHW = (2, 8, 8, 1), (2, 1, 8, 8)
DYNAMIC = ClipConfig(kind="dynamic", percentile=0.9, max_value=1.5)
EXPLICIT = {"kind": "explicit", "num_steps": 20}
EXPLICIT["betas"] = tuple(np.geomspace(1e-3, 0.5, 20).tolist())


def config_of(network="ddpm", num_classes=None, betas=None, **diffusion):
    schedule = {"num_steps": 20, "end": 0.3} if betas is None else betas
    return Config(
        data=DataConfig(num_classes=num_classes),
        network=NetworkConfig(**NETWORKS[network]),
        diffusion=DiffusionConfig(schedule=ScheduleConfig(**schedule), **diffusion),
    )


def random_params(config):
    """Weights of a network that trained: every one random, outputs of size 1."""
    draws = np.random.default_rng(0)
    params = {}
    shapes = load.parameter_shapes(build.make_network(config), config)
    for path, shape in shapes.items():
        z = draws.standard_normal(shape, dtype=np.float32)
        if path.endswith("kernel"):
            z /= np.sqrt(np.prod(shape[:-1]), dtype=np.float32)
        params[path] = 1 + z / 10 if path.endswith("scale") else z
    return jax.device_put(unflatten_dict(params, sep="/"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(config) -> (our denoise, diffusers' pipeline) of one model, by way of a file."""

    @functools.cache
    def make(config):
        params = random_params(config)
        path = tmp_path_factory.mktemp("diffusers") / "model"
        save_diffusers(path, config, params)
        pipeline = diffusers.DDPMPipeline.from_pretrained(path)
        pipeline.set_progress_bar_config(disable=True)
        network = build.make_network(config)
        apply = jax.jit(lambda *inputs: network.apply({"params": params}, *inputs))
        return apply, pipeline

    return make


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.numpy().transpose(0, 2, 3, 1)


def normal(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ask(unet, x, t, *label):
    with torch.no_grad():
        return unet(nchw(x), torch.tensor(t), *map(torch.tensor, label)).sample


@pytest.mark.parametrize("num_classes", [None, 10])
@pytest.mark.parametrize("network", NETWORKS)
def test_its_network_gives_our_output(network, num_classes, exported):
    config = config_of(network, num_classes)
    ours, pipeline = exported(config)
    inputs = [normal(1), np.array([3, 17])]
    if num_classes is not None:
        inputs.append(np.array([4, num_classes]))  # a class, and "no label"
    expected = nhwc(ask(pipeline.unet.eval(), *inputs))
    assert np.abs(expected).mean() > 0.1
    found = ours(*map(jnp.asarray, inputs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_what_it_saves_again_comes_back(tmp_path, exported):
    config = config_of("guided", 10)
    _, pipeline = exported(config)
    pipeline.save_pretrained(tmp_path / "again")
    weights = read_model(tmp_path / "again")
    assert weights.config == config
    jax.tree.map(np.testing.assert_array_equal, weights.params, random_params(config))


def test_with_another_scheduler_it_comes_back(tmp_path, exported):
    config = config_of(variance="fixed_small")
    _, pipeline = exported(config)
    for kind in (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler):
        scheduler = kind.from_config(pipeline.scheduler.config)
        swapped = diffusers.DDPMPipeline(unet=pipeline.unet, scheduler=scheduler)
        swapped.save_pretrained(tmp_path / kind.__name__)
        assert read_model(tmp_path / kind.__name__).config == config


def test_an_average_and_a_variant_come_back(tmp_path, exported):
    config = config_of("uneven")
    _, pipeline = exported(config)
    average = diffusers.training_utils.EMAModel(
        pipeline.unet.parameters(),
        model_cls=diffusers.UNet2DModel,
        model_config=pipeline.unet.config,
    )
    average.save_pretrained(tmp_path / "unet_ema")
    pipeline.unet.save_pretrained(tmp_path / "unet", variant="half")
    for place in (tmp_path, tmp_path / "unet"):
        weights = read_model(place)
        jax.tree.map(
            np.testing.assert_array_equal, weights.params, random_params(config)
        )


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["10GB", "10KB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_every_form_that_it_writes_comes_back(variant, size, safe, tmp_path, exported):
    config = config_of("uneven")
    _, pipeline = exported(config)
    pipeline.unet.save_pretrained(
        tmp_path, safe_serialization=safe, max_shard_size=size, variant=variant
    )
    assert (len(list(tmp_path.iterdir())) > 2) == (size == "10KB")
    weights = read_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, weights.params, random_params(config))


@pytest.mark.parametrize(
    "config",
    [
        config_of(),
        config_of(variance="fixed_small", clip=False),
        config_of(variance="learned_range", loss="hybrid"),
        config_of(betas={"kind": "cosine", "num_steps": 20}),
        config_of(betas={"kind": "warmup", "num_steps": 20, "end": 0.3}),
        config_of(predict="v"),
        config_of(clip=DYNAMIC),
        config_of(clip=ClipConfig(kind="dynamic", percentile=0.8)),
        config_of(clip=ClipConfig(bound=0.3)),
        config_of(betas=EXPLICIT),
    ],
    ids=[
        *("ddpm", "small", "learned", "cosine", "warmup", "v"),
        *("dynamic", "dynamic, open", "range", "explicit"),
    ],
)
@pytest.mark.parametrize("steps", [20, 5])
def test_ancestral_sampling_walks_the_same_path(config, steps, exported):
    ours, pipeline = exported(config)
    schedule = build.make_schedule(
        config.diffusion.schedule, steps=steps, spacing="leading"
    )
    theirs = pipeline.scheduler
    theirs.set_timesteps(steps)
    denoise = build.make_denoiser(config.diffusion, ours)
    update = jax.jit(ddpm_update)
    noises, drawn = (torch.Generator().manual_seed(0) for _ in range(2))
    x = jnp.asarray(normal(2))
    y = nchw(x)
    for i, t in zip(range(steps)[::-1], theirs.timesteps.tolist(), strict=True):
        assert t == schedule.timesteps[i]
        noise = (
            nhwc(torch.randn(y.shape, generator=noises))
            if i
            else np.zeros(SHAPE, np.float32)
        )
        x = update(schedule, x, i, denoise(schedule, x, i), noise)
        output = ask(pipeline.unet, nhwc(y), t)
        y = theirs.step(output, t, y, generator=drawn).prev_sample
        scale = max(1, float(y.abs().max()))
        np.testing.assert_allclose(x, nhwc(y), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "config",
    [
        *(config_of(), config_of(clip=ClipConfig(bound=0.3)), config_of(clip=DYNAMIC)),
        config_of(betas=EXPLICIT, predict="v"),
    ],
    ids=["ddpm", "range", "dynamic", "explicit v"],
)
@pytest.mark.parametrize("rederive", [False, True])
@pytest.mark.parametrize(("eta", "steps"), [(0.0, 20), (0.5, 5), (1.0, 20)])
def test_ddim_walks_the_same_path(steps, eta, rederive, config, exported):
    ours, pipeline = exported(config)
    schedule = build.make_schedule(
        config.diffusion.schedule, steps=steps, spacing="leading"
    )
    denoise = build.make_denoiser(config.diffusion, ours, rederive=rederive)
    update = jax.jit(functools.partial(ddim_update, eta=eta))
    theirs = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    theirs.set_timesteps(steps)
    x = jnp.asarray(normal(2))
    y = nchw(x)
    for i, t in zip(range(steps)[::-1], theirs.timesteps.tolist(), strict=True):
        noise = normal(100 + i)
        x = update(schedule, x, i, denoise(schedule, x, i), noise)
        given = {"variance_noise": nchw(noise)} if eta else {}
        output = ask(pipeline.unet, nhwc(y), t)
        y = theirs.step(
            output, t, y, eta=eta, use_clipped_model_output=rederive, **given
        ).prev_sample
        scale = max(1, float(y.abs().max()))
        np.testing.assert_allclose(x, nhwc(y), rtol=0, atol=5e-5 * scale)


def test_ddim_of_its_model_draws_what_its_pipeline_draws(tmp_path):
    """By import and by name alone: neither eps nor its limit is left to an option."""
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
        up_block_types=("UNetResAttnUpBlock2D", "UNetResUpBlock2D"),
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
    )
    assert unet.mid_block.attentions[0].group_norm is None
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=20,
        trained_betas=EXPLICIT["betas"],
        clip_sample_range=0.5,
        timestep_spacing="trailing",
    )
    pipeline = diffusers.DDIMPipeline(unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "theirs")
    model = ddpm_jax.load(tmp_path / "theirs")
    sampler, schedule = model.walk("ddim", 5, "trailing")
    latent = torch.randn(SHAPE_NCHW, generator=torch.Generator().manual_seed(0))
    found = samplers.sample(
        jax.random.key(0),
        model.denoiser(),
        schedule,
        SHAPE,
        sampler=sampler,
        x_init=jnp.asarray(nhwc(latent)),
    )
    expected = pipeline(
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=5,
        output_type="np",
    ).images
    np.testing.assert_allclose(
        np.clip(found / 2 + 0.5, 0, 1), expected, rtol=0, atol=5e-5
    )


def test_its_pipeline_draws_our_images(exported):
    config = config_of()
    ours, pipeline = exported(config)
    images = pipeline(
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=20,
        output_type="np",
    ).images
    schedule = build.make_schedule(config.diffusion.schedule)
    denoise = build.make_denoiser(config.diffusion, ours)
    update = jax.jit(ddpm_update)
    drawn = torch.Generator().manual_seed(0)
    x = jnp.asarray(nhwc(torch.randn((2, 1, 8, 8), generator=drawn)))
    for i in range(20)[::-1]:
        noise = (
            nhwc(torch.randn((2, 1, 8, 8), generator=drawn))
            if i
            else np.zeros(SHAPE, np.float32)
        )
        x = update(schedule, x, i, denoise(schedule, x, i), noise)
    np.testing.assert_allclose(images, np.clip(x / 2 + 0.5, 0, 1), rtol=0, atol=5e-5)

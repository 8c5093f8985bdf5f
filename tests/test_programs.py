"""Programs as users write them: each runs as it stands, with public names alone."""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ddpm_jax
from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    OptimConfig,
    SampleConfig,
    ScheduleConfig,
    TrainConfig,
)
from ddpm_jax.diffusion import (
    guidance,
    importance,
    likelihood,
    losses,
    samplers,
    schedules,
    transitions,
    variances,
)
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.parametrisations import Parametrisation
from ddpm_jax.networks import time_embedding
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import Batch, make_train_step

ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / ".pytest_cache" / "mypy"
MEAN, SPREAD = 0.3, 0.2  # of the grey levels that `grey_images` draws
STEPS = 100
CHAIN = schedules.make_schedule(schedules.linear_betas(STEPS, start=1e-3, end=0.2))
SAMPLERS = ("ddpm", "ddim", "dpm_solver_pp", "unipc", "heun")


class Affine(nn.Module):
    """A scale and a shift for every step: exact where each pixel is one Gaussian."""

    out_channels: int = 1
    null_label: bool = False

    @nn.compact
    def __call__(self, x, t, label=None, train=False):
        steps = jnp.arange(STEPS)
        tables = (self.param(n, nn.initializers.zeros, (STEPS,)) for n in ("a", "b"))
        scale, shift = (
            jnp.interp(t, steps, table).reshape(-1, 1, 1, 1) for table in tables
        )
        output = scale * x + shift
        return jnp.concatenate([output] * (self.out_channels // x.shape[-1]), axis=-1)


def grey_images(count, size=4):
    """uint8 (count, size, size, 1), each pixel from N(MEAN, SPREAD^2) in [-1, 1]."""
    x = np.random.default_rng(0).normal(MEAN, SPREAD, (count, size, size, 1))
    return np.clip(np.round(127.5 * x + 127.5), 0, 255).astype(np.uint8)


def check_grey(x, errors=0.03):
    assert np.isfinite(x).all()
    assert abs(np.mean(x) - MEAN) < errors and abs(np.std(x) - SPREAD) < errors


def short_run(steps, **parts):
    """A run of so many updates that draws one small picture, at its end."""
    return Config(
        optim=OptimConfig(learning_rate=0.05, warmup_steps=0, ema_decay=0.9),
        train=TrainConfig(num_steps=steps, batch_size=16, log_every=1),
        sample=SampleConfig(num=2, steps=2, every=10**6),
        **parts,
    )


# 1: an Equinox network and optax, nothing of ours but the mathematics.


def moons(count):
    """Two moons, (count, 2) in [-1, 1], on the 256 levels of 8-bit data."""
    rng = np.random.default_rng(0)
    angle, second = rng.uniform(0, np.pi, count), rng.integers(0, 2, count)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(second[:, None], np.array([[1.0, 0.5]]) - x, x)
    x = (x - np.array([[0.5, 0.25]])) / 2 + rng.normal(0, 0.05, x.shape)
    return np.round(np.clip(x, -1, 1) * 127.5 + 127.5) / 127.5 - 1


def test_an_equinox_network_learns_two_moons():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x, t):
            features = jnp.concatenate([x, time_embedding(t, 32)], axis=-1)
            return jax.vmap(self.mlp)(features)

    net = Net(eqx.nn.MLP(34, 2, 96, 3, jax.nn.silu, key=jax.random.key(0)))
    chain = schedules.make_schedule(schedules.cosine_betas(50))
    data = jnp.asarray(moons(4096), jnp.float32)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, 2500))

    def loss(params, key):
        key_x, key_t, key_noise = jax.random.split(key, 3)
        x0 = data[jax.random.randint(key_x, (256,), 0, len(data))]
        t = jax.random.randint(key_t, (256,), 0, chain.num_steps)
        noise = jax.random.normal(key_noise, x0.shape)
        xt = transitions.q_sample(chain, x0, t, noise)
        output = eqx.combine(params, static)(xt, t)
        return losses.simple_loss(chain, x0, xt, t, noise, output).mean()

    @jax.jit
    def train(params, keys):
        def update(carry, key):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(update, (params, tx.init(params)), keys)[0][0]

    net = eqx.combine(train(params, jax.random.split(jax.random.key(1), 2500)), static)
    for sampler in (samplers.ddpm(), samplers.ddim(), samplers.dpm_solver_pp()):
        x = np.asarray(samplers.sample(0, net, chain, (256, 2), sampler=sampler))
        apart = np.linalg.norm(x[:, None] - np.asarray(data)[None, :1000], axis=-1)
        assert np.mean(apart.min(axis=1)) < 0.12  # near the data; noise: 0.4
        assert np.mean(apart.min(axis=0)) < 0.12  # and everywhere that they are
    clipped = denoiser(net, clip=guidance.clip_static())
    bound = likelihood.bits_per_dim(0, clipped, chain, data[:256])
    assert 6.6 < np.mean(bound.total) < 7.7  # from their entropy; 8 of uniform pixels


# 2, 3, 4: own samplers, variances and parametrisations.


class Path(NamedTuple):
    """The state of the sampler below."""

    x: jax.Array


def euler():
    """Euler's method on the probability flow of x / alpha in sigma / alpha."""

    def step(key, denoise, schedule, state, i):
        estimate = denoise(schedule, state.x, i)
        sigma = schedule.sqrt_recipm1_alphas_cumprod
        below = jnp.where(i > 0, sigma[i - 1], 0.0)
        y = state.x * schedule.sqrt_recip_alphas_cumprod[i]
        y = y + (below - sigma[i]) * estimate.eps
        x = jnp.sqrt(schedule.alphas_cumprod_prev[i]) * y
        return Path(x), samplers.StepInfo(estimate.x0)

    return samplers.Sampler(lambda schedule, x: Path(x), step)


def test_an_own_sampler(grey_model):
    for how in ({}, {"steps": 10}, {"steps": 10, "spacing": "trailing"}):
        ours = grey_model.sample(0, 4, sampler=euler(), **how)
        theirs = grey_model.sample(0, 4, sampler="ddim", **how)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    *_, (last, x) = grey_model.sample_iter(0, 4, sampler=euler(), every=30)
    assert last == 0
    np.testing.assert_allclose(x, grey_model.sample(0, 4, sampler="ddim"), atol=1e-3)


def test_an_own_variance_rule():
    """The geometric mean of the two fixed ones, as `learned_range` has it at v = 0."""

    def between(schedule, t, values, like):
        small = variances.fixed_small(schedule, t, values, like).log_variance
        return (small + jnp.log(schedules.at(schedule.betas, t, like))) / 2

    def network(x, t):
        return 0.4 * x

    def doubled(x, t):
        return jnp.concatenate([network(x, t), 0 * x], axis=-1)

    own = denoiser(network, variance=between)
    theirs = denoiser(doubled, variance=variances.learned_range)
    x = samplers.sample(0, own, CHAIN, (4, 3))
    np.testing.assert_allclose(
        x, samplers.sample(0, theirs, CHAIN, (4, 3)), rtol=1e-4, atol=1e-5
    )
    assert np.abs(x - samplers.sample(0, network, CHAIN, (4, 3))).max() > 0.01
    data = jnp.zeros((2, 3))
    bounds = (likelihood.bits_per_dim(0, d, CHAIN, data).total for d in (own, theirs))
    np.testing.assert_allclose(*bounds, rtol=1e-4)


def trained(loss, images, updates=300, channels=1):
    """An `Affine` network by `make_train_step`, as (x, t) -> output."""
    network = Affine(out_channels=channels)
    x = jnp.zeros((1, *images.shape[1:]))
    params = network.init(jax.random.key(0), x, jnp.zeros(1))["params"]
    tx = optax.adam(0.05)
    steps = importance.uniform_steps(STEPS)
    train_step = make_train_step(
        network.apply, CHAIN, tx, loss=loss, step_sampler=steps, ema_decay=0.95
    )

    def update(state, _):
        return train_step(state, Batch(images, None, jnp.arange(len(images))))

    state = init_state(jax.random.key(1), params, tx, steps.init())
    run = jax.jit(lambda state: jax.lax.scan(update, state, None, updates))
    state, metrics = run(state)
    final = {"params": state.ema_params}
    return (lambda x, t: network.apply(final, x, t)), metrics


def test_an_own_parametrisation_trains_and_samples():
    """The network says x_0 - x_t: near zero where there is hardly any noise."""
    residual = Parametrisation(
        "residual",
        lambda schedule, xt, t, output: transitions.from_x0(
            schedule, xt, t, xt + output
        ),
        target=lambda schedule, x0, t, noise: (
            x0 - transitions.q_sample(schedule, x0, t, noise)
        ),
        eps_error=lambda snr: snr,
    )
    loss = partial(
        losses.simple_loss, predict=residual, weight=losses.min_snr(predict=residual)
    )
    network, _ = trained(loss, grey_images(64))
    denoise = denoiser(network, predict=residual)
    for sampler in (samplers.ddpm(), samplers.dpm_solver_pp()):
        check_grey(samplers.sample(0, denoise, CHAIN, (64, 4, 4, 1), sampler=sampler))


@pytest.mark.parametrize(
    ("loss", "channels"),
    [
        (losses.simple_loss, 1),
        (partial(losses.simple_loss, predict=transitions.from_v), 1),
        (losses.hybrid_loss, 2),
        (partial(losses.hybrid_loss, vlb_weight=0.1), 2),
        (losses.vlb_term, 1),
        (partial(losses.vlb_term, variance=variances.fixed_small), 1),
    ],
)
def test_every_loss_is_one_of_a_train_step_and_so_is_a_partial_of_it(loss, channels):
    _, metrics = trained(loss, grey_images(16), updates=40, channels=channels)
    assert np.mean(metrics["loss"][-10:]) < 0.8 * np.mean(metrics["loss"][:3])


# 5, 6, 7: a trained model as `load` gives it.


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory):
    """Predicts v, by a network of our own, of images of our own."""
    schedule = ScheduleConfig(num_steps=STEPS, start=1e-3, end=0.2)
    config = short_run(300, diffusion=DiffusionConfig(schedule=schedule, predict="v"))
    workdir = tmp_path_factory.mktemp("grey")
    ddpm_jax.train(config, workdir, data=grey_images(256), network=Affine())
    return ddpm_jax.load(workdir, network=Affine())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_that_predicts_v_is_read_so_by_every_sampler(grey_model, name):
    check_grey(grey_model.sample(0, 64, sampler=name))

    def eps(x, t):
        t = t.astype(int)  # heun tells its steps as floats
        signal = schedules.at(CHAIN.sqrt_alphas_cumprod, t, x)
        sigma = schedules.at(CHAIN.sqrt_one_minus_alphas_cumprod, t, x)
        return signal * grey_model.denoise(x, t) + sigma * x

    sampler = getattr(samplers, name)()
    by_hand = denoiser(eps, clip=guidance.clip_static())
    draws = (
        samplers.sample(1, denoise, CHAIN, (4, 4, 4, 1), sampler=sampler)
        for denoise in (grey_model.denoiser(), by_hand)
    )
    np.testing.assert_allclose(*draws, atol=2e-3)


def coloured_images(count):
    """uint8 (count, 8, 8, 3) and labels: the channel of the label is bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 100, (count, 8, 8, 3)).astype(np.uint8)
    images[np.arange(count), :, :, labels] += 150
    return images, labels


@pytest.fixture(scope="module")
def coloured_run(tmp_path_factory):
    """The workdir of a small U-Net, trained on arrays."""
    config = short_run(
        2,
        data=DataConfig(num_classes=2),
        network=NetworkConfig(
            channels=4,
            multipliers=(1,),
            num_blocks=1,
            num_groups=2,
            attention_resolutions=(),
        ),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(num_steps=20, end=0.6), label_dropout=0.2
        ),
    )
    workdir = tmp_path_factory.mktemp("coloured")
    outcome = ddpm_jax.train(config, workdir, data=coloured_images(32))
    assert outcome == (2, None)
    return workdir


def test_own_arrays_are_trained_on(coloured_run):
    model = ddpm_jax.load(coloured_run)
    assert model.image_shape == (8, 8, 3) and model.config.data.class_names == (
        "0",
        "1",
    )
    assert model.sample(0, 2, label=["1", "0"], steps=2).shape == (2, 8, 8, 3)
    config = dataclasses.replace(
        model.config, train=dataclasses.replace(model.config.train, num_steps=3)
    )
    with pytest.raises(ValueError, match=r"images that Python gives.*got none"):
        ddpm_jax.train(config, coloured_run)
    assert ddpm_jax.train(config, coloured_run, data=coloured_images(32)).step == 3


def test_guidance_is_a_function_of_the_step(coloured_run):
    model = ddpm_jax.load(coloured_run)

    def draw(guidance):
        return model.sample(0, 2, label=[0, 1], guidance=guidance, sampler="ddim")

    np.testing.assert_array_equal(draw(lambda t: 3.0), draw(3.0))
    falling = draw(lambda t: jnp.where(t >= 10, 3.0, 1.0))
    assert np.abs(falling - draw(3.0)).max() > 1e-4
    limited = guidance.classifier_free(
        lambda x, t, label: model.denoise(x, t, label),
        jnp.array([0, 1]),
        2,
        3.0,
        first_step=10,
    )
    x = samplers.sample(
        jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(2)),
        denoiser(limited, clip=guidance.clip_static()),
        model.schedule,
        (2, 8, 8, 3),
        sampler=samplers.ddim(),
    )
    np.testing.assert_allclose(falling, x, atol=1e-4)


def test_inpainting_from_a_loaded_run(coloured_run):
    model = ddpm_jax.load(coloured_run)
    images = jnp.asarray(coloured_images(2)[0] / 127.5 - 1, jnp.float32)
    mask = jnp.ones((1, 8, 8, 1)).at[:, 2:6, 2:6].set(0)
    how = {"jump": 2, "resample": 2, "steps": 6, "label": [0, 1], "guidance": 2.0}
    x = model.inpaint(0, images, mask, **how)
    np.testing.assert_array_equal(x * mask, images * mask)
    assert np.abs(x - images)[:, 2:6, 2:6].max() > 0.1 and np.abs(x).max() <= 1
    assert np.abs(model.inpaint(1, images, mask, **how) - x).max() > 0.1
    assert model.show(x).height > 8


# 8, 9: networks of one's own.


class Convolutions(nn.Module):
    """As small as a network can be."""

    out_channels: int = 1
    null_label: bool = True

    @nn.compact
    def __call__(self, x, t, label=None, train=False):
        told = nn.Dense(8)(time_embedding(t, 8))
        if label is not None:
            told += nn.Embed(11, 8)(label)
        x = nn.Conv(8, (3, 3))(x) + told[:, None, None]
        x = nn.Dropout(0.1, deterministic=not train)(nn.silu(x))
        return nn.Conv(self.out_channels, (3, 3))(x)


class Transformer(nn.Module):
    """A transformer on patches (Peebles & Xie 2023), of one block."""

    out_channels: int = 1
    null_label: bool = True
    width: int = 16
    patch: int = 4

    @nn.compact
    def __call__(self, x, t, label=None, train=False):
        batch, height, width, _ = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        x = nn.Conv(self.width, (p, p), strides=(p, p))(x).reshape(
            batch, -1, self.width
        )
        shape = (1, rows * columns, self.width)
        x = x + self.param("places", nn.initializers.normal(0.02), shape)
        told = nn.Dense(self.width)(time_embedding(t, self.width))
        if label is not None:
            told += nn.Embed(11, self.width)(label)
        x = x + told[:, None]
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))
        x = nn.Dense(p * p * self.out_channels)(nn.LayerNorm()(x))
        x = x.reshape(batch, rows, columns, p, p, self.out_channels).swapaxes(2, 3)
        return x.reshape(batch, height, width, self.out_channels)


@contextlib.contextmanager
def interrupted(workdir):
    """Ctrl-C, once the run has logged an update."""
    ended = threading.Event()

    def watch():
        log = workdir / "metrics.jsonl"
        while not ended.is_set():
            if log.exists() and log.stat().st_size:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_an_own_network_takes_images_that_no_unet_could(tmp_path):
    """And without it they are refused in one line before there is a workdir."""
    images = np.random.default_rng(0).integers(0, 256, (16, 30, 30, 3), np.uint8)
    given = DataConfig(source="given", image_size=30, channels=3)
    config = short_run(1, data=given)
    outcome = ddpm_jax.train(
        config, tmp_path / "run", data=images, network=Convolutions(out_channels=3)
    )
    assert outcome == (1, None)
    model = ddpm_jax.load(tmp_path / "run", network=Convolutions(out_channels=3))
    assert model.sample(0, 1, steps=2).shape == (1, 30, 30, 3)
    with pytest.raises(ValueError, match="attention_resolutions must be sizes") as it:
        ddpm_jax.train(config, tmp_path / "unet", data=images)
    assert "\n" not in str(it.value) and not (tmp_path / "unet").exists()


@pytest.mark.parametrize(
    ("network", "other"),
    [(Convolutions(), Transformer()), (Transformer(), Transformer(width=32))],
)
def test_an_own_network_lives_as_the_unet_does(network, other, tmp_path):
    config = short_run(
        100_000,
        data=DataConfig(num_classes=10),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(num_steps=20, end=0.6), label_dropout=0.1
        ),
    )
    run = tmp_path / "run"
    with interrupted(run):
        stopped = ddpm_jax.train(config, run, network=network)
    assert stopped.stopped_by == signal.SIGINT and stopped.step > 0
    train = dataclasses.replace(config.train, num_steps=stopped.step + 2)
    config = dataclasses.replace(config, train=train)
    assert ddpm_jax.train(config, run, network=network) == (stopped.step + 2, None)

    model = ddpm_jax.load(run, network=network)
    assert model.step == stopped.step + 2 and type(network).__name__ in repr(model)
    x = model.sample(0, 2, sampler="ddim", steps=3, label=[3, 4], guidance=2.0)
    assert x.shape == (2, 8, 8, 1) and np.isfinite(x).all()
    model.export(tmp_path / "model.bin", sampler="ddim", steps=3, platforms=["cpu"])
    exported = jax.export.deserialize(bytearray((tmp_path / "model.bin").read_bytes()))
    same = exported.call(
        seed=0, index=jnp.arange(2), label=jnp.array([3, 4]), guidance=2.0
    )
    np.testing.assert_allclose(same, x, atol=1e-4)

    name = type(network).__name__
    train = dataclasses.replace(train, num_steps=stopped.step + 3)
    later = dataclasses.replace(config, train=train)
    with pytest.raises(ValueError, match=f"the network is {name}, .*network=") as error:
        ddpm_jax.load(run)
    assert "\n" not in str(error.value)
    for use in (
        lambda: ddpm_jax.load(run, network=other),
        lambda: ddpm_jax.train(later, run, network=other),
    ):
        with pytest.raises(ValueError, match=f"network.*{name}") as error:
            use()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="network"):
        ddpm_jax.train(config, run)
    wide = dataclasses.replace(network, out_channels=2)
    with pytest.raises(ValueError, match=r"out_channels=1 .*got 2"):
        ddpm_jax.load(run, network=wide)


@pytest.mark.processes
def test_a_type_checker_sees_what_is_returned(tmp_path):
    """mypy on a user's file, of a package that says it is typed (PEP 561)."""
    (tmp_path / "theirs.py").write_text(
        "import ddpm_jax\n"
        "from ddpm_jax.diffusion import samplers, schedules\n"
        'model = ddpm_jax.load("run")\n'
        "reveal_type(model)\n"
        "reveal_type(model.sample(0, 4))\n"
        "reveal_type(schedules.make_schedule(schedules.cosine_betas(9)))\n"
        "reveal_type(samplers.ddim())\n"
        "reveal_type(ddpm_jax.train)\n"
        'model.sample(0, "four")\n'
    )
    # A user's mypy finds the package where it is installed, here on the path.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", CACHE, "theirs.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    *found, wrong, _, _ = done.stdout.split("\n")
    for line, revealed in zip(
        found,
        (
            '"ddpm_jax.model.Model"$',
            r'"jax\..*Array"$',
            r'"ddpm_jax\.diffusion\.schedules\.Schedule"$',
            r".*fallback=ddpm_jax\.diffusion\.samplers\.base\.Sampler\]",
            r'"def \(config: ddpm_jax\.config\.Config, .* fallback=.*Outcome\]"',
        ),
        strict=True,
    ):
        assert re.search(f"Revealed type is {revealed}", line), done.stdout
    assert 'incompatible type "str"; expected "int"' in wrong

"""Every field of a config reaches what it is for: none has its default here."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from toy import Toy, toy_config

from ddpm_jax import build
from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    NetworkConfig,
    OptimConfig,
    SampleConfig,
    ScheduleConfig,
    TrainConfig,
)
from ddpm_jax.data import ImageArrays
from ddpm_jax.networks import UNet
from ddpm_jax.networks.convolutions import DIRECT
from ddpm_jax.networks.presets import IMPROVED_INIT
from ddpm_jax.training import loop, setup
from ddpm_jax.training.feed import make_feed
from ddpm_jax.training.state import adam
from ddpm_jax.training.step import make_train_step

CONFIG = Config(
    data=DataConfig(num_classes=10, flip=True),
    network=NetworkConfig(
        channels=16,
        multipliers=(1, 3),
        num_blocks=1,
        attention_resolutions=(8,),
        dropout=0.2,
        num_groups=4,
        dtype="bfloat16",
        remat="dots",
        convolutions="direct",
        norm_eps=1e-4,
        cos_first=True,
        freq_shift=0,
        time_scale=2.0,
        downsample_padding=(1, 1),
        scale_shift=True,
        num_heads=2,
        head_channels=4,
        resblock_updown=True,
        mid_attention_norm=False,
        init="improved",
    ),
    diffusion=DiffusionConfig(
        schedule=ScheduleConfig(kind="quadratic", num_steps=7, start=0.01, end=0.97),
        predict="v",
        variance="learned",
        loss="hybrid",
        weight="p2",
        steps="loss_second_moment",
        label_dropout=0.3,
        rederive=False,
    ),
    optim=OptimConfig(
        learning_rate=3e-3,
        warmup_steps=2,
        decay_steps=50,
        beta1=0.8,
        beta2=0.95,
        eps=1e-5,
        weight_decay=0.04,
        clip_norm=0.7,
        ema_decay=0.6,
        ema_warmup=False,
    ),
    train=TrainConfig(
        num_steps=60,
        batch_size=24,
        accumulate=3,
        seed=5,
        log_every=4,
        checkpoint_every=6,
        keep_latest=7,
        keep_every=8,
        keep_best=9,
        on_nonfinite="skip",
        peak_flops=1e12,
        tracker="none",
    ),
    sample=SampleConfig(sampler="ddim", steps=3, every=11, num=6),
    evaluation=EvaluationConfig(
        every=3, images=21, levels=4, samples=10, sampler="unipc", steps=2
    ),
)
ELSEWHERE = {"network": {"null_label", "own"}, "diffusion": {"clip"}}
ELSEWHERE |= {"train": {"runner", "fsdp"}}


def recorded(monkeypatch, module, name):
    """The arguments of each call of module.name, which goes on as it was."""
    calls, function = [], getattr(module, name)

    def record(*positional, **named):
        bound = inspect.signature(function).bind(*positional, **named)
        calls.append(bound.arguments)
        return function(*positional, **named)

    monkeypatch.setattr(module, name, record)
    return calls


@pytest.mark.parametrize(
    "section", ["network", "diffusion", "optim", "train", "evaluation"]
)
def test_no_field_has_its_default(section):
    ours = getattr(CONFIG, section)
    for item in dataclasses.fields(ours):
        if item.name not in ELSEWHERE.get(section, ()):
            default = item.default
            if default is dataclasses.MISSING:
                default = item.default_factory()
            assert getattr(ours, item.name) != default, item.name


def test_the_update_is_what_the_config_says(monkeypatch):
    made = recorded(monkeypatch, setup, "make_train_step")
    adams = recorded(monkeypatch, setup, "adam")
    losses = recorded(monkeypatch, build, "make_loss")
    setup.make_update(CONFIG)
    (told,), (optimiser,) = made, adams
    asked_for = inspect.signature(make_train_step).parameters
    assert set(told) == set(asked_for)
    expected = {
        "ema_decay": 0.6,
        "ema_warmup": False,
        "flip": True,
        "label_dropout": 0.3,
        "null_label": 10,
        "accumulate": 3,
        "unroll": jax.default_backend() == "cpu",
        "skip_nonfinite": True,
        "batched": True,  # as the U-Net can
    }
    assert {name: told[name] for name in expected} == expected
    others = {"apply", "schedule", "tx", "loss", "step_sampler"}
    assert set(told) == {*expected, *others}
    betas = np.linspace(0.01**0.5, 0.97**0.5, 7) ** 2
    np.testing.assert_allclose(told["schedule"].betas, betas, rtol=1e-5)
    assert losses[0]["config"] == CONFIG.diffusion
    assert told["step_sampler"].init().counts.shape == (7,)

    assert set(optimiser) == set(inspect.signature(adam).parameters)
    assert optimiser == {
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "decay_steps": 50,
        "beta1": 0.8,
        "beta2": 0.95,
        "eps": 1e-5,
        "weight_decay": 0.04,
        "clip_norm": 0.7,
    }
    own = {item.name for item in dataclasses.fields(OptimConfig)}
    assert own == {*optimiser, "ema_decay", "ema_warmup"}


def test_a_network_that_is_given_is_the_one_that_is_trained(monkeypatch):
    made = recorded(monkeypatch, setup, "make_train_step")
    network = Toy()
    config = toy_config()
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, seed=5)
    )
    _, initial_state = setup.make_update(config, network)
    assert made[0]["apply"] == network.apply
    state = initial_state()
    key_params, key_run = jax.random.split(jax.random.key(config.train.seed))
    expected = network.init(key_params, None, None)["params"]
    jax.tree.map(np.testing.assert_array_equal, state.params, expected)
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, expected)
    assert (jax.random.key_data(state.key) == jax.random.key_data(key_run)).all()


@pytest.mark.parametrize("classes", [3, None])
def test_labels_go_to_the_devices_where_they_are_read(classes):
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
    labels = np.arange(8, dtype=np.int32) % 3
    source = ImageArrays(images=images, labels=labels, label_names=("a", "b", "c"))
    held = make_feed(toy_config(classes=classes).data, source).resident
    np.testing.assert_array_equal(held.images, images)
    if classes is None:
        assert held.labels is None
    else:
        np.testing.assert_array_equal(held.labels, labels)


def test_the_u_net_has_every_field_of_the_config():
    data = dataclasses.replace(CONFIG.data, num_classes=7)
    network = build.make_network(dataclasses.replace(CONFIG, data=data))
    told = dataclasses.asdict(CONFIG.network)
    del told["own"], told["init"]
    assert told.pop("convolutions") == "direct"
    told |= {
        "convolutions": DIRECT,
        "dtype": np.dtype("bfloat16"),
        "num_classes": 7,
        "out_channels": 2,
    }
    told |= IMPROVED_INIT
    own = {"parent", "name", "attention"}  # not of a config
    assert {item.name for item in dataclasses.fields(UNet)} - own == set(told)
    for name, value in told.items():
        assert getattr(network, name) == value, name
    guided = dataclasses.replace(CONFIG.network, null_label=False)
    diffusion = dataclasses.replace(CONFIG.diffusion, label_dropout=0.0)
    config = dataclasses.replace(CONFIG, network=guided, diffusion=diffusion)
    assert build.make_network(config).null_label is False


class Enough(Exception):
    pass


def test_the_run_hands_on_what_it_is_told(tmp_path, monkeypatch):
    """Up to the first update, where the run is ended."""
    seen = {}

    def feed(config, source):
        class Ends:
            resident = None

            def batches(self, *when):
                seen["when"] = when
                raise Enough

        seen["data"] = config
        return Ends()

    managers = recorded(monkeypatch, loop.checkpoints, "open_checkpoints")
    reports, runners = [], []
    monkeypatch.setattr(loop, "make_feed", feed)
    report = loop.Report

    def reporting(workdir, **options):
        reports.append(options)
        return report(workdir, **options)

    jit_runner = loop.parallel.jit_runner

    def running(train_step, mesh, state, *, by_hand):
        runners.append((dict(mesh.shape), by_hand))
        return jit_runner(train_step, mesh, state, by_hand=by_hand)

    monkeypatch.setattr(loop, "Report", reporting)
    monkeypatch.setattr(loop.parallel, "jit_runner", running)
    network = Toy(2, classes=10)
    with pytest.raises(Enough):
        loop.run(CONFIG, tmp_path, network=network)
    assert seen["when"] == (5, 24, 0)
    assert seen["data"].num_classes == 10
    kept = {"keep_latest": 7, "keep_every": 8, "keep_best": 9, "rank_by": "digits-FD"}
    assert any(kept.items() <= call.items() for call in managers)
    begun = {"first_step": 0, "num_steps": 60, "batch_size": 24, "log_every": 4}
    assert reports == [begun | {"peak_flops": 8e12, "tracker": None}]
    assert runners == [({"data": 8, "fsdp": 1}, True)]

    split = dataclasses.replace(CONFIG.train, accumulate=1, fsdp=2)
    with pytest.raises(Enough):
        config = dataclasses.replace(CONFIG, train=split)
        loop.run(config, tmp_path / "split", network=network)
    assert runners[-1] == ({"data": 4, "fsdp": 2}, False)

    chosen = []
    pmap_runner = loop.parallel.pmap_runner

    def mapping(*arguments):
        chosen.append("pmap")
        return pmap_runner(*arguments)

    monkeypatch.setattr(loop.parallel, "pmap_runner", mapping)
    mapped = dataclasses.replace(CONFIG.train, runner="pmap")
    with pytest.raises(Enough):
        config = dataclasses.replace(CONFIG, train=mapped)
        loop.run(config, tmp_path / "mapped", network=network)
    assert chosen == ["pmap"]

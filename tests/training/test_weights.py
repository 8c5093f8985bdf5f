"""A run tells its weights from their average, from the first state to the pictures."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from toy import toy_config, toy_network

import ddpm_jax
from ddpm_jax.config import ClipConfig
from ddpm_jax.images import grid, to_picture, to_uint8
from ddpm_jax.training import loop

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1), np.uint8)
LABELS = np.arange(16) % 3


@pytest.fixture
def config():
    told = toy_config(
        predict="v",
        variance="learned_range",
        clip=ClipConfig(bound=0.9),
        rederive=False,
    )
    train = dataclasses.replace(told.train, num_steps=2, checkpoint_every=1)
    sample = dataclasses.replace(told.sample, sampler="ddim", every=1)
    return dataclasses.replace(told, train=train, sample=sample)


@pytest.fixture
def twice(monkeypatch):
    """Updates that change nothing, of weights whose average is twice them."""
    made = loop.make_update

    def make_update(config, network):
        _, initial_state = made(config, network)

        def start():
            state = initial_state()
            doubled = jax.tree.map(lambda x: 2 * x, state.params)
            return state.replace(ema_params=doubled)

        def step(state, batch):
            metrics = {"loss": np.float32(1), "grad_norm": np.float32(1)}
            return state.replace(step=state.step + 1), metrics

        return step, start

    monkeypatch.setattr(loop, "make_update", make_update)


def run(config, workdir):
    network = toy_network(config)
    loop.run(config, workdir, data=(IMAGES, LABELS), network=network)
    return {
        weights: ddpm_jax.load(workdir, weights=weights, network=network)
        for weights in ("raw", "ema")
    }


def picture(model, config):
    """The run's grid, by hand: a column of a label each, always the same noise."""
    x = model.sample(
        jax.random.key(0),
        4,
        sampler=config.sample.sampler,
        steps=config.sample.steps,
        label=np.array([0, 1, 0, 1]),
    )
    return np.asarray(to_picture(grid(to_uint8(x), 2)))


def test_the_average_is_what_is_drawn_saved_and_read(config, twice, tmp_path):
    models = run(config, tmp_path)
    doubled = jax.tree.map(lambda x: 2 * x, models["raw"].params)
    jax.tree.map(np.testing.assert_array_equal, models["ema"].params, doubled)
    ours, raw = (picture(models[x], config) for x in ("ema", "raw"))
    assert np.abs(ours.astype(int) - raw).max() > 20
    for step in (1, 2):
        drawn = np.asarray(Image.open(tmp_path / "samples" / f"step_000000{step}.png"))
        np.testing.assert_allclose(drawn.astype(int), ours, atol=1)

    # And a run that goes on has both as they were.
    train = dataclasses.replace(config.train, num_steps=3)
    later = run(dataclasses.replace(config, train=train), tmp_path)
    assert later["raw"].step == later["ema"].step == 3
    for weights in ("raw", "ema"):
        jax.tree.map(
            np.testing.assert_array_equal, later[weights].params, models[weights].params
        )
    drawn = np.asarray(Image.open(tmp_path / "samples" / "step_0000003.png"))
    np.testing.assert_allclose(drawn.astype(int), ours, atol=1)


def test_what_is_loaded_is_what_was_trained(config, twice, tmp_path):
    model = run(config, tmp_path)["ema"]
    assert model.config.diffusion == config.diffusion
    assert model.config.data.class_names == ("0", "1", "2")
    np.testing.assert_allclose(
        model.schedule.betas, np.linspace(0.2, 0.95, 6), rtol=1e-6
    )
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["diffusion"]["predict"] == "v"
    assert stored["sample"]["sampler"] == "ddim"


def test_every_so_often_there_is_a_checkpoint_and_a_picture(config, twice, tmp_path):
    train = dataclasses.replace(config.train, num_steps=7, checkpoint_every=3)
    sample = dataclasses.replace(config.sample, every=2)
    config = dataclasses.replace(config, train=train, sample=sample)
    run(config, tmp_path)
    saved = {int(x.name) for x in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert saved == {3, 6, 7}
    drawn = sorted(x.name for x in (tmp_path / "samples").iterdir())
    assert drawn == [f"step_{step:07d}.png" for step in (2, 4, 6, 7)]

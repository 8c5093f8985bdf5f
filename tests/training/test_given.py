"""Images and networks that Python gives: what becomes of them in a config."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import build, loading
from ddpm_jax.config import Config, DataConfig, SampleConfig
from ddpm_jax.data import ImageArrays
from ddpm_jax.training import feed
from ddpm_jax.training.loop import run

IMAGES = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
LABELS = np.array([0, 1, 1, 0])


class Scale(nn.Module):
    out_channels: int = 1
    null_label: bool = True

    @nn.compact
    def __call__(self, x, t, label=None, train=False):
        return self.param("scale", nn.initializers.ones, ()) * x


def test_labels_are_called_what_the_config_calls_them():
    source = feed.as_source((IMAGES, LABELS), ("cat", "dog"))
    assert source.label_names == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, LABELS)
    # A set with names of its own keeps what they mean.
    own = ImageArrays(
        images=IMAGES, labels=LABELS.astype(np.int32), label_names=("dog", "cat")
    )
    again = feed.as_source(own, ("cat", "dog"))
    np.testing.assert_array_equal(again.labels, 1 - LABELS)
    with pytest.raises(ValueError, match="the classes must be cow, cat"):
        feed.as_source(own, ("cow", "cat"))


@pytest.mark.parametrize("resident", [True, False])
def test_images_are_held_or_streamed_as_the_config_says(resident):
    source = feed.as_source(IMAGES)
    config = feed.given_kind(DataConfig(resident=resident), source)
    assert (config.source, config.image_size, config.channels) == ("given", 8, 1)
    assert config.resident == resident
    held = feed.make_feed(config, source).resident
    assert (held is not None) == resident


@dataclasses.dataclass
class Unhashable:
    out_channels: int = 1
    null_label: bool = True

    def init(self, key, x, t, label=None):
        return {"params": {"scale": jnp.ones(())}}

    def apply(self, variables, x, t, label=None, train=False, rngs=None):
        return variables["params"]["scale"] * x


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (Unhashable(), "must be hashable.*Unhashable is not"),
        (Scale(out_channels=2), "out_channels=1 .*got 2"),
        (3, "a network must have init"),
    ],
)
def test_a_network_that_does_not_suit_is_refused(network, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        run(Config(), tmp_path / "run", data=IMAGES, network=network)
    assert not (tmp_path / "run").exists()


def test_what_no_grid_can_be_drawn_with_is_refused_before_the_run(tmp_path):
    config = Config(sample=SampleConfig(steps=1))
    with pytest.raises(ValueError, match="a single step is the first of the chain"):
        run(config, tmp_path / "run", data=IMAGES, network=Scale())
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_python_must_give_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source=given is images that Python"):
        build.read_images(DataConfig(source="given"), "train")
    own = dataclasses.replace(Config().network, own="Scale")
    with pytest.raises(ValueError, match=r"the network is Scale.*must be given"):
        build.make_network(dataclasses.replace(Config(), network=own))
    with pytest.raises(ValueError, match="network= is of a run"):
        loading.load(tmp_path, network=Scale())

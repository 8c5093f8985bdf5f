"""What is written comes back to the bit, and nothing is left half-written."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from toy import toy_model

from ddpm_jax import build
from ddpm_jax.config import (
    ClipConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    SampleConfig,
    ScheduleConfig,
)
from ddpm_jax.interop import diffusers_format, diffusers_scheduler, load
from ddpm_jax.interop.diffusers_rules import PRIVATE
from ddpm_jax.interop.read import read_model
from ddpm_jax.interop.save import save_archive, save_diffusers

SMALL = NetworkConfig(channels=8, multipliers=(1, 2), num_blocks=1, num_groups=4)
DIGITS = DataConfig(num_classes=10)
CONFIGS = {
    "labels": Config(
        data=DIGITS,
        network=dataclasses.replace(SMALL, attention_resolutions=(4,)),
        diffusion=DiffusionConfig(label_dropout=0.1),
    ),
    "improved": Config(
        data=DataConfig(source="folder", path="images", image_size=16, channels=3),
        network=dataclasses.replace(
            SMALL,
            attention_resolutions=(8, 16),
            norm_eps=1e-5,
            cos_first=True,
            freq_shift=0,
            downsample_padding=(1, 1),
            scale_shift=True,
            multipliers=(1, 1.5),
            head_channels=4,
            init="improved",
        ),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(kind="cosine", num_steps=50),
            variance="learned_range",
            loss="hybrid",
        ),
    ),
    "guided": Config(
        data=dataclasses.replace(DIGITS, num_classes=3),
        network=dataclasses.replace(
            SMALL,
            attention_resolutions=(4,),
            num_heads=4,
            resblock_updown=True,
            null_label=False,
        ),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(kind="sigmoid", zero_terminal_snr=True),
            predict="v",
            variance="fixed_small",
            clip=False,
        ),
    ),
    "unnamed betas": Config(
        network=dataclasses.replace(SMALL, attention_resolutions=()),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(kind="warmup", num_steps=20, fraction=0.5),
            clip=ClipConfig(kind="dynamic", percentile=0.9, max_value=1.5),
        ),
    ),
    "no norm in the middle": Config(
        network=dataclasses.replace(
            SMALL,
            attention_resolutions=(4,),
            scale_shift=True,
            mid_attention_norm=False,
        ),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(
                kind="explicit", num_steps=3, betas=(0.1, 0.3, 0.9)
            ),
            clip=ClipConfig(bound=2.0),
            rederive=False,
        ),
        sample=SampleConfig(steps=3),
    ),
}


@functools.cache
def random_params(config):
    draws = np.random.default_rng(0)
    shapes = load.parameter_shapes(build.make_network(config), config)
    flat = {
        path: draws.standard_normal(shape, dtype=np.float32)
        for path, shape in shapes.items()
    }
    return unflatten_dict(flat, sep="/")


def save(path, config, params, form, step=0):
    if form == "diffusers":
        save_diffusers(path, config, params, step=step)
    else:
        save_archive(path, config, params, step=step, npz=form == "npz")


def assert_same_params(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("form", ["diffusers", "safetensors", "npz"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_comes_back_to_the_bit(name, form, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    save(tmp_path / "out", config, params, form, step=7)
    weights = read_model(tmp_path / "out")
    path = "" if config.data.source == "folder" else None
    data = dataclasses.replace(config.data, path=path)
    assert weights.config == dataclasses.replace(config, data=data)
    assert weights.step == 7
    assert_same_params(weights.params, params)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_options_alone_say_the_same_model(name, tmp_path):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    save_diffusers(tmp_path / "out", config, params)
    said = tmp_path / "out" / "unet" / "config.json"
    values = json.loads(said.read_text())
    del values[PRIVATE]
    said.write_text(json.dumps(values))
    weights = read_model(tmp_path / "out")
    assert_same_params(weights.params, params)
    unet = diffusers_format.write_unet(weights.config)
    scheduler = diffusers_scheduler.write_scheduler(weights.config.diffusion)
    assert unet == diffusers_format.write_unet(config)
    assert scheduler == diffusers_scheduler.write_scheduler(config.diffusion)
    betas = build.make_betas(config.diffusion.schedule)
    found = build.make_betas(weights.config.diffusion.schedule)
    np.testing.assert_array_equal(found, betas)


def test_betas_without_a_name_are_written_out():
    config = CONFIGS["unnamed betas"]
    values = diffusers_scheduler.write_scheduler(config.diffusion)
    betas = build.make_betas(config.diffusion.schedule)
    np.testing.assert_array_equal(values["trained_betas"], betas)


@pytest.mark.parametrize("form", ["diffusers", "safetensors", "npz"])
def test_a_network_that_python_gave_is_not_archived(form, tmp_path):
    """No archive could be read back; the sampler can be exported."""
    model = toy_model()
    with pytest.raises(ValueError, match=r"network.* Toy") as error:
        save(tmp_path / "out", model.config, model.params, form)
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


def test_an_archive_is_the_parameters_by_path(tmp_path):
    config, params = CONFIGS["labels"], random_params(CONFIGS["labels"])
    save_archive(tmp_path / "out", config, params, npz=True)
    with np.load(tmp_path / "out" / "model.npz") as file:
        names = set(file.files) - {"step"}
        assert names == set(flatten_dict(params, sep="/"))
        kernel = params["mid_block_0"]["conv2"]["kernel"]
        np.testing.assert_array_equal(file["mid_block_0/conv2/kernel"], kernel)


@pytest.mark.parametrize(
    ("section", "fields", "named"),
    [
        ("network", {"time_scale": 0.25}, "network.time_scale"),
        ("network", {"downsample_padding": (1, 0)}, "network.downsample_padding"),
        ("network", {"num_heads": 2, "attention_resolutions": (8,)}, "num_heads"),
        ("diffusion", {"variance": "learned", "loss": "vlb"}, "diffusion.variance"),
    ],
)
def test_what_diffusers_cannot_say_is_named(section, fields, named, tmp_path):
    config = CONFIGS["labels"]
    changed = dataclasses.replace(getattr(config, section), **fields)
    config = dataclasses.replace(config, **{section: changed})
    with pytest.raises(ValueError, match=named):
        save_diffusers(tmp_path / "out", config, random_params(config))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["diffusers", "safetensors", "npz"])
def test_nothing_is_written_over(form, tmp_path):
    config, params = CONFIGS["labels"], random_params(CONFIGS["labels"])
    save(tmp_path / "out", config, params, form)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(FileExistsError, match="out"):
        save(tmp_path / "out", config, params, form)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert after == before


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_a_failure_leaves_nothing(form, tmp_path):
    params = dict(random_params(CONFIGS["labels"]))
    bias = np.array(["no number"] * 8, dtype=object)
    params["conv_in"] = {**params["conv_in"], "bias": bias}
    with pytest.raises((OSError, KeyError)):
        save(tmp_path / "out", CONFIGS["labels"], params, form)
    assert not any(tmp_path.iterdir())


def test_a_width_that_diffusers_embeds_no_time_in_is_named(tmp_path):
    config = CONFIGS["labels"]
    halved = dataclasses.replace(config.network, channels=16, multipliers=(0.5, 1))
    config = dataclasses.replace(config, network=halved)
    with pytest.raises(ValueError, match=r"network\.multipliers\[0\] must be 1"):
        save_diffusers(tmp_path / "out", config, random_params(config))


def test_another_scheduler_beside_our_config_is_the_same_model(tmp_path):
    config = CONFIGS["unnamed betas"]
    save_diffusers(tmp_path / "out", config, random_params(config))
    said = tmp_path / "out" / "scheduler" / "scheduler_config.json"
    values = json.loads(said.read_text())
    options = {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}
    said.write_text(json.dumps({**values, **options, "steps_offset": 1}))
    assert read_model(tmp_path / "out").config == config
    values["trained_betas"][3] /= 2
    said.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"scheduler_config\.json: .*schedule\.betas"):
        read_model(tmp_path / "out")


def test_options_that_say_otherwise_are_named(tmp_path):
    config = CONFIGS["labels"]
    save_diffusers(tmp_path / "out", config, random_params(config))
    said = tmp_path / "out" / "unet" / "config.json"
    values = json.loads(said.read_text())
    said.write_text(json.dumps(values | {"norm_eps": 1e-3}))
    differs = r"config\.json: .*norm_eps must be 1e-06; got 0\.001"
    with pytest.raises(ValueError, match=differs):
        read_model(tmp_path / "out")

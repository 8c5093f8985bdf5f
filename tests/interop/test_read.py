"""What others published is recognised, read, and computes what they computed."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax import build
from ddpm_jax.config import Config, DataConfig, NetworkConfig, from_dict, to_dict
from ddpm_jax.interop import diffusers_format, diffusers_scheduler, facts, keymaps, load
from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.read import identify, read_model
from ddpm_jax.interop.structure import layout_of
from ddpm_jax.networks import presets

ORDER = "attention_order"
IMAGENET_512 = Config(
    data=DataConfig(
        source="folder", path="any", image_size=512, channels=3, num_classes=1000
    ),
    network=NetworkConfig(attention_resolutions=()),
)
GOLDEN = Path(__file__).parents[1] / "golden"
PEERS = dict(np.load(GOLDEN / "networks_peers.npz"))


def published_shapes(name):
    with np.load(GOLDEN / "networks_keymaps.npz") as lists:
        pairs = (line.split() for line in lists[name].tolist())
        return {key: tuple(map(int, shape.split(","))) for key, shape in pairs}


def imagenet64(channels):
    return presets.iddpm_imagenet64(channels=channels)


@pytest.mark.parametrize(
    ("name", "net", "size", "betas", "num_steps", "variance"),
    [
        ("ho_ddim_cifar10", presets.ddpm_cifar10(), 32, "linear", 1000, "fixed_large"),
        (
            "ho_ddim_celeba64",
            presets.ddpm_celeba64(),
            64,
            "linear",
            1000,
            "fixed_large",
        ),
        ("ho_ddim_lsun256", presets.ddpm_lsun256(), 256, "linear", 1000, "fixed_small"),
        (
            "improved_cifar10_uncond_50M",
            presets.iddpm_cifar10(),
            32,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_cifar10_no_learn_sigma",
            presets.iddpm_cifar10(out_channels=3),
            32,
            "cosine",
            4000,
            "fixed_large",
        ),
        (
            "improved_imagenet64_uncond_100M",
            presets.iddpm_imagenet64(),
            64,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_imagenet64_C64",
            imagenet64(64),
            64,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_imagenet64_C96",
            imagenet64(96),
            64,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_imagenet64_C192",
            imagenet64(192),
            64,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_imagenet64_cond_270M",
            presets.iddpm_imagenet64_cond(),
            64,
            "cosine",
            4000,
            "learned_range",
        ),
        (
            "improved_lsun_uncond_100M",
            presets.iddpm_lsun256(),
            256,
            "linear",
            1000,
            "learned_range",
        ),
        (
            "guided_imagenet64",
            presets.guided_imagenet64(),
            64,
            "cosine",
            1000,
            "learned_range",
        ),
    ],
)
def test_published_shapes_are_recognised(name, net, size, betas, num_steps, variance):
    shapes = published_shapes(name)
    found = identify(shapes, layout_of(shapes), Hints())
    assert build.make_network(found.config) == net
    assert found.config.data.image_size == size
    diffusion = found.config.diffusion
    schedule = diffusion.schedule
    assert (schedule.kind, schedule.num_steps) == (betas, num_steps)
    assert diffusion.variance == variance
    # Nothing about the network is left to a guess.
    assert not any("network." in key for key in found.sources.get("guessed", {}))
    parameters = load.parameter_shapes(net, found.config)
    peers = found.keymap(net, parameters).values()
    assert {peer.key: peer.shape for peer in peers} == shapes


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("diffusers_ddpm_cifar10_32", presets.ddpm_cifar10(dropout=0.0)),
        ("diffusers_ddpm_lsun_celebahq_256", presets.ddpm_lsun256()),
    ],
)
def test_published_configs_of_diffusers_are_the_papers(name, net, diffusers_configs):
    known, structure = diffusers_format.read_unet(diffusers_configs[name])
    known |= facts.labelled(structure.label_rows, Hints())
    guessed = diffusers_scheduler.usual(structure)
    config = facts.to_config({"unet": known, "guessed": guessed}, structure)
    assert build.make_network(config) == net


CASES = {
    "ho_ddim_layout_mini": Hints(image_size=16),
    "guided_unet_classcond_legacyattn": Hints(image_size=16),
    "guided_unet_newattn_updown_hc16": Hints(
        image_size=16, head_channels=16, attention_order="new"
    ),
}


def output(weights, name):
    network = build.make_network(weights.config)
    inputs = [PEERS[f"{name}/x"].transpose(0, 2, 3, 1), PEERS[f"{name}/t"]]
    if f"{name}/y" in PEERS:
        inputs.append(PEERS[f"{name}/y"])
    params = jax.device_put(weights.params)
    out = jax.jit(network.apply)({"params": params}, *map(jnp.asarray, inputs))
    return np.asarray(out).transpose(0, 3, 1, 2)


def assert_the_peers_output(weights, name):
    expected = PEERS[f"{name}/out"]
    np.testing.assert_allclose(output(weights, name), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_peers_file_gives_the_peers_output(name, tmp_path, peer_weights):
    save_file(peer_weights(name), tmp_path / "weights.safetensors")
    weights = read_model(tmp_path / "weights.safetensors", CASES[name])
    assert_the_peers_output(weights, name)


@pytest.mark.parametrize("given", ["folder", "pipeline", "file", "old names"])
def test_a_folder_of_diffusers_gives_its_output(given, diffusers_folder, tmp_path):
    place = diffusers_folder
    weights = diffusers_folder / "diffusion_pytorch_model.safetensors"
    if given == "file":
        place = weights
    elif given == "pipeline":
        place = tmp_path / "pipeline"
        place.mkdir()
        diffusers_folder.rename(place / "unet")
    elif given == "old names":
        names = {"to_q": "query", "to_k": "key", "to_v": "value"}
        names |= {"to_out.0": "proj_attn"}
        tensors = load_file(weights)
        for new, old in names.items():
            tensors = {key.replace(new, old): x for key, x in tensors.items()}
        assert any("proj_attn" in key for key in tensors)
        save_file(tensors, weights)
    assert_the_peers_output(read_model(place), "diffusers_unet2d_cifar_mini")


def test_a_scheduler_is_found_and_read(diffusers_folder):
    said = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.001,
        "beta_end": 0.01,
        "num_train_timesteps": 500,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "timestep_spacing": "trailing",
    }
    (diffusers_folder / "scheduler_config.json").write_text(json.dumps(said))
    diffusion = read_model(diffusers_folder).config.diffusion
    schedule = diffusion.schedule
    assert (schedule.kind, schedule.num_steps) == ("quadratic", 500)
    assert (schedule.start, schedule.end) == (0.001, 0.01)
    assert schedule.zero_terminal_snr
    assert (diffusion.predict, diffusion.clip.kind) == ("v", "none")
    assert not diffusion.rederive


def test_a_published_network_of_half_levels_is_recognised():
    """Guided diffusion's 512x512: its finest level has half of the channels."""
    network = presets.guided_imagenet64(
        channels=256,
        multipliers=(0.5, 1, 1, 2, 2, 4, 4),
        num_blocks=2,
        dropout=0.0,
    )
    parameters = load.parameter_shapes(network, IMAGENET_512)
    assert sum(map(math.prod, parameters.values())) == 558_997_638
    peers = keymaps.openai(network, parameters).values()
    shapes = {peer.key: peer.shape for peer in peers}
    assert shapes["input_blocks.0.0.weight"] == (128, 3, 3, 3)
    assert shapes["time_embed.0.weight"] == (1024, 256)
    found = identify(shapes, "openai", Hints())
    assert build.make_network(found.config) == network
    assert found.config.data.image_size == 512
    assert found.config.network.attention_resolutions == (32, 16, 8)
    assert facts.GUESSED not in found.sources


def test_levels_of_diffusers_may_have_any_width(diffusers_configs):
    values = diffusers_configs["diffusers_unet2d_cifar_mini"]
    values = values | {"block_out_channels": [32, 48, 64, 128]}
    known, structure = diffusers_format.read_unet(values)
    assert structure.multipliers == (1, 1.5, 2, 4)
    known |= facts.labelled(structure.label_rows, Hints())
    guessed = diffusers_scheduler.usual(structure)
    config = facts.to_config({"unet": known, "guessed": guessed}, structure)
    written = diffusers_format.write_unet(config)
    assert written["block_out_channels"] == [32, 48, 64, 128]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_the_attention_order_is_a_fact_with_a_source():
    shapes = published_shapes("guided_imagenet64")
    for hints, source, order in (
        (Hints(), "published: guided diffusion, ImageNet 64x64", "new"),
        (Hints(attention_order="legacy"), "options", "legacy"),
    ):
        assert identify(shapes, "openai", hints).sources[source][ORDER] == order
    del shapes["label_emb.weight"]  # now nobody's that is known
    found = identify(shapes, "openai", Hints(image_size=64))
    guessed = found.sources[facts.GUESSED]
    assert guessed[ORDER] == "legacy"
    assert facts.overriding(guessed) == [
        *("attention_order", "num_heads", "num_steps", "predict", "schedule"),
        *("time_scale", "variance"),
    ]


def test_options_go_before_what_is_published():
    shapes = published_shapes("improved_cifar10_uncond_50M")
    hints = Hints(image_size=64, schedule="linear", num_steps=2000, num_heads=2)
    config = identify(shapes, "openai", hints).config
    assert config.data.image_size == 64
    assert config.network.attention_resolutions == (32, 16)
    assert config.network.num_heads == 2
    assert config.network.time_scale == 0.5  # of the steps that are told to it
    schedule = config.diffusion.schedule
    # Improved DDPM rescales linear betas with the number of steps.
    assert (schedule.start, schedule.end) == (5e-5, 0.01)


def test_a_row_for_no_label_is_no_class():
    shapes = published_shapes("guided_imagenet64")
    plain = identify(shapes, "openai", Hints()).config
    assert (plain.data.num_classes, plain.network.null_label) == (1000, False)
    nulled = identify(shapes, "openai", Hints(null_label=True)).config
    assert (nulled.data.num_classes, nulled.network.null_label) == (999, True)
    assert nulled.diffusion.label_dropout > 0  # it can be guided

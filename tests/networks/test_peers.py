"""The published networks: their sizes, their key lists, and small ones' outputs."""

import functools
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from ddpm_jax.interop import keymaps
from ddpm_jax.networks import UNet, presets

GOLDEN = Path(__file__).parents[1] / "golden"
PEERS = dict(np.load(GOLDEN / "networks_peers.npz"))


@functools.cache
def parameter_shapes(net, size):
    """The shape of every parameter by path, without making one."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    label = () if net.num_classes is None else (jnp.zeros(1, int),)
    variables = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1), *label)
    flat = flatten_dict(variables["params"], sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def count(shapes):
    return sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize(
    ("name", "net", "size", "keymap", "params"),
    [
        (
            "diffusers_ddpm_cifar10_32",
            presets.ddpm_cifar10(),
            32,
            keymaps.diffusers,
            35_746_307,
        ),
        (
            "diffusers_ddpm_lsun_celebahq_256",
            presets.ddpm_lsun256(),
            256,
            keymaps.diffusers,
            113_673_219,
        ),
        ("ho_ddim_cifar10", presets.ddpm_cifar10(), 32, keymaps.ho, 35_746_307),
        ("ho_ddim_celeba64", presets.ddpm_celeba64(), 64, keymaps.ho, 78_700_803),
        ("ho_ddim_lsun256", presets.ddpm_lsun256(), 256, keymaps.ho, 113_673_219),
        (
            "improved_cifar10_uncond_50M",
            presets.iddpm_cifar10(),
            32,
            keymaps.openai,
            52_546_438,
        ),
        (
            "improved_cifar10_no_learn_sigma",
            presets.iddpm_cifar10(out_channels=3),
            32,
            keymaps.openai,
            52_542_979,
        ),
        (
            "improved_imagenet64_uncond_100M",
            presets.iddpm_imagenet64(),
            64,
            keymaps.openai,
            121_063_942,
        ),
        (
            "improved_imagenet64_C64",
            presets.iddpm_imagenet64(channels=64),
            64,
            keymaps.openai,
            30_303_494,
        ),
        (
            "improved_imagenet64_C96",
            presets.iddpm_imagenet64(channels=96),
            64,
            keymaps.openai,
            68_126_598,
        ),
        (
            "improved_imagenet64_C192",
            presets.iddpm_imagenet64(channels=192),
            64,
            keymaps.openai,
            272_281_350,
        ),
        (
            "improved_imagenet64_cond_270M",
            presets.iddpm_imagenet64_cond(),
            64,
            keymaps.openai,
            273_049_350,
        ),
        (
            "improved_lsun_uncond_100M",
            presets.iddpm_lsun256(),
            256,
            keymaps.openai,
            113_676_678,
        ),
        (
            "guided_imagenet64",
            presets.guided_imagenet64(),
            64,
            keymaps.openai,
            295_904_454,
        ),
    ],
)
def test_every_published_key_is_mapped_once(name, net, size, keymap, params):
    with np.load(GOLDEN / "networks_keymaps.npz") as lists:
        published = dict(line.split() for line in lists[name].tolist())
    shapes = parameter_shapes(net, size)
    peers = keymap(net, shapes)
    mapped = {peer.key: ",".join(map(str, peer.shape)) for peer in peers.values()}
    assert mapped == published
    assert count(shapes) == params
    # Only query, key and value may share a tensor, and then all three do.
    sharing = len(peers) - len(mapped)
    assert sharing == 2 * sum(".qkv." in key for key in mapped)
    for path, peer in peers.items():
        dummy = np.broadcast_to(np.float32(0), peer.shape)
        assert peer.load(dummy).shape == shapes[path]


def test_the_large_network_has_the_size_of_the_paper():
    shapes = parameter_shapes(presets.ddpm_lsun256_large(), 256)
    assert count(shapes) == 255_677_955


def test_old_diffusers_names_are_todays():
    modern = keymaps.modern_diffusers_key
    old = "down_blocks.1.attentions.0.{}.weight"
    for before, now in [
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
        ("group_norm", "group_norm"),
        ("to_q", "to_q"),
    ]:
        assert modern(old.format(before)) == old.format(now)
    assert (
        modern("mid_block.attentions.0.key.bias") == "mid_block.attentions.0.to_k.bias"
    )
    assert modern("conv_in.weight") == "conv_in.weight"


def weights(key, shape):
    """The peer's tensor: weights made by a rule from the name, so none is stored."""
    seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
    z = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if key.endswith("bias"):
        return np.float32(0.1) * z
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z
    return z * np.float32(1 / math.sqrt(math.prod(shape[1:])))


def new_order(net, shapes):
    return keymaps.openai(net, shapes, legacy_attention=False)


OPENAI = {
    "channels": 32,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "norm_eps": 1e-5,
    "cos_first": True,
    "freq_shift": 0,
    "downsample_padding": (1, 1),
    "scale_shift": True,
    "num_heads": 4,
    "attention_resolutions": (8,),
}
DIFFUSERS = {
    "channels": 16,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "num_groups": 8,
    "norm_eps": 1e-5,
    "cos_first": True,
    "freq_shift": 0,
    "downsample_padding": (1, 1),
    "head_channels": 8,
    "attention_resolutions": (4,),
}
CASES = {
    "ho_ddim_layout_mini": (
        UNet(
            3,
            channels=32,
            multipliers=(1, 2),
            num_blocks=1,
            attention_resolutions=(8,),
        ),
        keymaps.ho,
        {
            "down.0.downsample": "down_0_downsample",
            "down.1.attn.0": "down_1_attention_0",
            "mid.block_2": "mid_block_1",
        },
    ),
    "diffusers_unet2d_cifar_mini": (
        UNet(3, channels=16, num_groups=8, attention_resolutions=(8,)),
        keymaps.diffusers,
        {
            "down_blocks.0.downsamplers.0": "down_0_downsample",
            "down_blocks.1.attentions.0": "down_1_attention_0",
            "mid_block": "mid_block_1",
        },
    ),
    "diffusers_defaults_labels": (
        UNet(3, num_classes=10, null_label=False, **DIFFUSERS),
        keymaps.diffusers,
        {"mid_block": "mid_block_1"},
    ),
    "diffusers_resnet_updown": (
        UNet(3, resblock_updown=True, **DIFFUSERS),
        keymaps.diffusers,
        {"mid_block": "mid_block_1"},
    ),
    "guided_unet_classcond_legacyattn": (
        UNet(6, num_classes=10, null_label=False, **OPENAI),
        keymaps.openai,
        {
            "input_blocks.2": "down_0_downsample",
            "input_blocks.3": "down_1_attention_0",
            "middle_block": "mid_block_1",
        },
    ),
    "guided_unet_newattn_updown_hc16": (
        UNet(6, head_channels=16, resblock_updown=True, **OPENAI),
        new_order,
        {
            "input_blocks.2": "down_0_downsample",
            "input_blocks.3": "down_1_attention_0",
            "middle_block": "mid_block_1",
        },
    ),
    "iddpm_lsun_style": (
        UNet(
            6,
            **OPENAI
            | {"scale_shift": False, "num_heads": 1, "attention_resolutions": (4,)},
        ),
        keymaps.openai,
        {"middle_block": "mid_block_1"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_peers_weights_give_the_peers_output(name):
    net, keymap, blocks = CASES[name]
    x = jnp.asarray(PEERS[f"{name}/x"].transpose(0, 2, 3, 1))
    inputs = [x, jnp.asarray(PEERS[f"{name}/t"])]
    if f"{name}/y" in PEERS:
        inputs.append(jnp.asarray(PEERS[f"{name}/y"]))
    peers = keymap(net, parameter_shapes(net, x.shape[1]))
    params = {
        path: jnp.asarray(peer.load(weights(peer.key, peer.shape)))
        for path, peer in peers.items()
    }

    @jax.jit
    def run(params, *inputs):
        return net.apply(
            {"params": params},
            *inputs,
            capture_intermediates=True,
            mutable=["intermediates"],
        )

    out, captured = run(unflatten_dict(params, sep="/"), *inputs)
    found = {"out": out}
    for peer_block, block in blocks.items():
        found[f"act/{peer_block}"] = captured["intermediates"][block]["__call__"][0]
    for key, value in found.items():
        expected = PEERS[f"{name}/{key}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5, err_msg=key)


def test_storing_undoes_loading():
    net = CASES["diffusers_unet2d_cifar_mini"][0]
    shapes = parameter_shapes(net, 16)
    for keymap in (keymaps.diffusers, keymaps.ho):
        for peer in keymap(net, shapes).values():
            tensor = weights(peer.key, peer.shape)
            np.testing.assert_array_equal(peer.store(peer.load(tensor)), tensor)

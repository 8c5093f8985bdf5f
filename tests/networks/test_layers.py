"""Layers and embeddings against the peers' numbers, and the laws they obey."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks import time_embedding
from ddpm_jax.networks.layers import (
    AttentionBlock,
    Conv,
    Downsample,
    Dropout,
    GroupNorm,
    Upsample,
    average_downsample,
    ddpm_init,
    nearest_upsample,
)

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "networks_layers.npz"))


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("eps", ["1e-05", "1e-06"])
@pytest.mark.parametrize("groups", [8, 32])
@pytest.mark.parametrize(
    ("scale", "offset", "tolerance"),
    # With the offset, rounding the input to float32 alone moves the output by 1.4e-5.
    [("0.001", "0", 1e-6), ("0.01", "3.0", 1e-4)],
)
def test_group_norm_is_pytorchs(scale, offset, tolerance, groups, eps):
    x = nhwc(GOLDEN["gn_x"]) * float(scale) + float(offset)
    params = {"scale": GOLDEN["gn_w"], "bias": GOLDEN["gn_b"]}
    normed = GroupNorm(groups, epsilon=float(eps)).apply({"params": params}, x)
    expected = nhwc(GOLDEN[f"gn/scale{scale}_off{offset}/groups{groups}/eps{eps}"])
    np.testing.assert_allclose(normed, expected, rtol=0, atol=tolerance)


def test_group_norm_takes_its_statistics_in_float32():
    x = 30 + jax.random.normal(jax.random.key(0), (1, 32, 32, 8))
    x = x.astype(jnp.bfloat16)
    norm = GroupNorm(2, dtype=jnp.bfloat16)
    normed = norm.apply(norm.init(jax.random.key(0), x), x)
    grouped = np.asarray(x, np.float64).reshape(1024, 2, 4)
    centred = grouped - grouped.mean((0, 2), keepdims=True)
    expected = centred / centred.std((0, 2), keepdims=True)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(normed, np.float64).reshape(1024, 2, 4),
        expected,
        rtol=2**-8,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("padding", "name"),
    [((0, 1), "conv_s2_tfSAME_pad01"), ((1, 1), "conv_s2_torch_p1")],
)
def test_downsampling_pads_as_its_peer_does(padding, name):
    # The golden kernel has 5 outputs; the layer keeps the 4 channels it is given.
    x, kernel = nhwc(GOLDEN["conv_x"]), GOLDEN["conv_w_oihw"].transpose(2, 3, 1, 0)
    params = {"conv": {"kernel": kernel[..., :4], "bias": GOLDEN["conv_b"][:4]}}
    small = Downsample(padding).apply({"params": params}, x)
    expected = nhwc(GOLDEN[name])[..., :4]
    np.testing.assert_allclose(small, expected, rtol=0, atol=1e-6)


def test_resampling_without_weights_is_the_peers():
    x = nhwc(GOLDEN["conv_x"])
    np.testing.assert_array_equal(nearest_upsample(x), nhwc(GOLDEN["nearest2"]))
    np.testing.assert_allclose(
        average_downsample(x), nhwc(GOLDEN["avgpool2"]), rtol=0, atol=1e-6
    )


def test_upsampling_repeats_then_convolves():
    x = nhwc(GOLDEN["conv_x"])
    layer = Upsample()
    variables = layer.init(jax.random.key(0), x)
    conv = nn.Conv(4, (3, 3)).bind({"params": variables["params"]["conv"]})
    expected = conv(nhwc(GOLDEN["nearest2"]))
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-6)


def test_convolutions_have_flax_s_parameters_and_numbers():
    """So that old checkpoints load, and begin as they did."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    for size in (1, 3):
        ours, theirs = Conv(7, size), nn.Conv(7, (size, size), kernel_init=ddpm_init)
        params = ours.init(jax.random.key(1), x)
        jax.tree.map(
            np.testing.assert_array_equal, params, theirs.init(jax.random.key(1), x)
        )
        params["params"]["bias"] = jnp.arange(7.0)
        np.testing.assert_allclose(
            ours.apply(params, x), theirs.apply(params, x), rtol=1e-5, atol=1e-5
        )
    assert ours.clone(dtype=jnp.bfloat16).apply(params, x).dtype == "bfloat16"


def test_dropout_keeps_the_mean_and_what_it_keeps_is_its_rate():
    x, keys = jnp.ones((50, 40, 40)), jax.random.split(jax.random.key(0), 50)
    layer = Dropout(0.3)
    for out in (
        layer.apply({}, x, keys),
        layer.apply({}, x, None, rngs={"dropout": keys[0]}),
    ):
        assert abs(np.mean(out == 0) - 0.3) < 5 * np.sqrt(0.21 / x.size)
        np.testing.assert_allclose(out[out != 0], 1 / 0.7, rtol=1e-6)
        assert len(np.unique(np.asarray(out).reshape(50, -1), axis=0)) == 50
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, keys), x)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention_is_openais_in_either_order(order, heads):
    # (b, 3 * 16, 9): q, k and v of each head together, or all heads of each together.
    joint = GOLDEN["qkv_NCT"]
    split = (heads, 3) if order == "legacy" else (3, heads)
    joint = joint.reshape(2, *split, 16 // heads, 9)
    q, k, v = np.moveaxis(joint, 2 if order == "legacy" else 1, 0).transpose(
        0, 1, 4, 2, 3
    )
    mixed = AttentionBlock.attention(*map(jnp.asarray, (q, k, v)))
    expected = GOLDEN[f"attn_{order}/heads{heads}"].transpose(0, 2, 1)
    np.testing.assert_allclose(mixed.reshape(2, 9, 16), expected, rtol=0, atol=1e-6)


def test_attention_does_not_know_where_a_pixel_is():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    block = AttentionBlock(num_heads=2, num_groups=4, zero_init=ddpm_init)
    variables = block.init(jax.random.key(1), x)
    order = jax.random.permutation(jax.random.key(2), 16)

    def shuffle(x):
        return x.reshape(1, 16, 8)[:, order].reshape(1, 4, 4, 8)

    np.testing.assert_allclose(
        block.apply(variables, shuffle(x)),
        shuffle(block.apply(variables, x)),
        atol=1e-5,
    )


def embed(dim, **options):
    t = jnp.asarray(GOLDEN["embedding/t"])
    return jax.jit(lambda t: time_embedding(t, dim, **options))(t)


@pytest.mark.parametrize("dim", [8, 9, 32, 128])
def test_time_embedding_is_ddpms(dim):
    expected = GOLDEN[f"embedding/ho_ddim/{dim}"]
    np.testing.assert_allclose(embed(dim), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("peer", "dim", "options", "tolerance"),
    # Where PyTorch's exp, or another order of operations, gives the last bit of one
    # frequency otherwise, the angle moves by up to half its own last bit: 3e-5 at 999.
    [
        ("openai", 8, {"cos_first": True, "freq_shift": 0}, 1e-6),
        ("openai", 9, {"cos_first": True, "freq_shift": 0}, 1e-6),
        ("openai", 32, {"cos_first": True, "freq_shift": 0}, 1e-6),
        ("openai", 128, {"cos_first": True, "freq_shift": 0}, 3.1e-5),
        ("diffusers_flip0_shift1", 8, {}, 1e-6),
        ("diffusers_flip0_shift1", 9, {}, 1e-6),
        ("diffusers_flip0_shift1", 32, {}, 3.1e-5),
        ("diffusers_flip0_shift1", 128, {}, 3.1e-5),
    ],
)
def test_time_embedding_is_that_of_the_descendants(peer, dim, options, tolerance):
    expected = GOLDEN[f"embedding/{peer}/{dim}"]
    np.testing.assert_allclose(embed(dim, **options), expected, atol=tolerance)


def test_time_embedding_takes_any_shape_and_refuses_too_few_channels():
    t = jnp.arange(6.0)
    np.testing.assert_array_equal(
        time_embedding(t.reshape(2, 3), 8).reshape(6, 8), time_embedding(t, 8)
    )
    assert time_embedding(jnp.asarray(3), 8).shape == (8,)
    with pytest.raises(ValueError, match="at least 4 channels; got 3"):
        time_embedding(t, 3)

"""The U-Net as a function: labels, dropout, precision, batches, and what it refuses."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ddpm_jax.config import NetworkConfig
from ddpm_jax.networks import UNet
from ddpm_jax.networks.layers import Dropout, ddpm_init

# As DDPM's, but tiny, and with final kernels large enough to see what comes through.
NET = UNet(
    1,
    channels=16,
    multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(4,),
    num_classes=3,
    num_groups=4,
    dropout=0.3,
    zero_init=ddpm_init,
)
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
T = jnp.array([0, 3, 500, 999])
LABEL = jnp.array([0, 1, 2, 3])


@pytest.fixture(scope="module")
def params():
    return init(NET, jax.random.key(0))


@partial(jax.jit, static_argnums=0)
def init(net, key):
    return net.init(key, X, T, LABEL)["params"]


@partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(net, params, x, t, label=None, key=None, train=False):
    rngs = None if key is None else {"dropout": key}
    return net.apply({"params": params}, x, t, label, train=train, rngs=rngs)


@partial(jax.jit, static_argnums=0)
def train(net, params, x, t, label, keys):
    return net.apply({"params": params}, x, t, label, train=True, dropout_keys=keys)


@pytest.mark.parametrize("bad", [-1, -4, 4, 1000])
def test_a_label_outside_gives_nan_for_its_example_alone(params, bad):
    out = apply(NET, params, X, T, LABEL.at[1].set(bad))
    nan = jnp.isnan(out).all(axis=(1, 2, 3))
    assert nan.tolist() == [False, True, False, False]
    assert jnp.isfinite(out[jnp.array([0, 2, 3])]).all()


def test_a_level_may_have_a_part_of_the_channels():
    net = NET.clone(multipliers=(0.5, 1.5), attention_resolutions=())
    shapes = jax.eval_shape(partial(init, net), jax.random.key(0))
    assert shapes["conv_in"]["kernel"].shape == (3, 3, 1, 8)
    assert shapes["time"]["dense1"]["kernel"].shape == (16, 64)
    assert shapes["mid_block_0"]["conv1"]["kernel"].shape == (3, 3, 24, 24)
    thirds = NET.clone(channels=48, multipliers=(1, 64 / 48), num_groups=16)
    shapes = jax.eval_shape(partial(init, thirds), jax.random.key(0))
    assert shapes["mid_block_0"]["conv1"]["kernel"].shape[-1] == 64
    with pytest.raises(ValueError, match="whole number of channels"):
        init(NET.clone(multipliers=(1, 1.3)), jax.random.key(0))


def test_multipliers_of_a_config_are_numbers_of_either_kind():
    plain = NetworkConfig(multipliers=(1, 2))
    assert NetworkConfig(multipliers=(1.0, 2.0)) == plain
    assert str(NetworkConfig(multipliers=(1.0, 2.0)).multipliers) == "(1, 2)"
    assert NetworkConfig(multipliers=(0.5, 1)).multipliers == (0.5, 1)
    for wrong in ((), (0,), (-1, 2), (1, 1.001), (float("inf"),), (float("nan"),)):
        with pytest.raises(ValueError, match=r"network\.multipliers"):
            NetworkConfig(multipliers=wrong)


def test_no_label_is_the_last_row(params):
    out = apply(NET, params, X, T)
    np.testing.assert_array_equal(out, apply(NET, params, X, T, jnp.full(4, 3)))
    np.testing.assert_array_equal(out, apply(NET, params, X, T, jnp.asarray(3)))
    assert jnp.abs(out - apply(NET, params, X, T, jnp.asarray(0))).max() > 1e-2


def test_without_a_row_for_it_there_is_no_null_label(params):
    net = NET.clone(null_label=False)
    fresh = jax.eval_shape(partial(init, net), jax.random.key(0))
    assert fresh["label"]["embedding"].shape == (3, 64)
    params = {**params, "label": {"embedding": params["label"]["embedding"][:3]}}
    assert jnp.isnan(apply(net, params, X, T, jnp.asarray(3))).all()
    with pytest.raises(ValueError, match="null_label=False needs a label"):
        net.apply({"params": params}, X, T)


def test_a_batch_is_its_examples(params):
    """Also in training, where each example owns its dropout key."""
    keys = jax.random.split(jax.random.key(2), 4)
    whole, order = apply(NET, params, X, T, LABEL), jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        apply(NET, params, X[order], T[order], LABEL[order]), whole[order], atol=1e-5
    )
    whole = train(NET, params, X, T, LABEL, keys)
    np.testing.assert_allclose(
        train(NET, params, X[order], T[order], LABEL[order], keys[order]),
        whole[order],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        train(NET, params, X[1:3], T[1:3], LABEL[1:3], keys[1:3]), whole[1:3], atol=1e-5
    )
    other = train(NET, params, X, T, LABEL, jax.random.split(jax.random.key(3), 4))
    assert (jnp.abs(other - whole).max(axis=(1, 2, 3)) > 1e-2).all()
    again = train(NET.clone(remat=True), params, X, T, LABEL, keys)
    np.testing.assert_allclose(again, whole, atol=1e-5)


def test_layers_drop_apart_from_each_other():
    """One key for all layers, and yet a mask of its own for each."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return [Dropout(0.5, name=name)(x, keys) == 0 for name in ("one", "two")]

    x, keys = jnp.ones((8, 20, 20)), jax.random.split(jax.random.key(0), 8)
    first, second = Two().apply({}, x, keys)
    assert abs(np.mean(first == second) - 0.5) < 5 * 0.5 / np.sqrt(x.size)


def test_dropout_acts_in_training_only(params):
    key, other = jax.random.split(jax.random.key(3))
    out = apply(NET, params, X, T)
    np.testing.assert_array_equal(out, apply(NET, params, X, T, key=key))
    trained = apply(NET, params, X, T, key=key, train=True)
    assert jnp.abs(trained - out).max() > 1e-2
    retrained = apply(NET, params, X, T, key=other, train=True)
    assert jnp.abs(trained - retrained).max() > 1e-2
    undropped = NET.clone(dropout=0.0)
    np.testing.assert_array_equal(apply(undropped, params, X, T, train=True), out)


def test_steps_may_be_one_for_all_fractional_and_rescaled(params):
    out = apply(NET, params, X, jnp.full(4, 500))
    np.testing.assert_array_equal(out, apply(NET, params, X, jnp.asarray(500)))
    between = apply(NET, params, X, jnp.asarray(500.5))
    assert 0 < jnp.abs(between - out).max() < 1
    rescaled = apply(NET.clone(time_scale=0.25), params, X, jnp.asarray(2000))
    np.testing.assert_array_equal(rescaled, out)


def test_images_need_not_be_square(params):
    x = jax.random.normal(jax.random.key(4), (2, 8, 16, 1))
    assert apply(NET, params, x, T[:2]).shape == x.shape


def test_bfloat16_computes_with_float32_parameters_and_output(params):
    net = NET.clone(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(partial(init, net), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    exact = apply(NET, params, X, T)
    out = apply(net, params, X, T)
    assert out.dtype == jnp.float32
    assert 1e-4 < jnp.abs(out - exact).max() < 0.1 * jnp.abs(exact).max()


def loss(params, net, key):
    out = net.apply({"params": params}, X, T, LABEL, train=True, rngs={"dropout": key})
    return jnp.square(out).mean()


REMAT = ("none", "dots", "blocks")


def test_remat_changes_no_gradient_and_no_parameter(params):
    grad = jax.jit(jax.grad(loss), static_argnums=1)
    key = jax.random.key(5)
    stored, *others = (grad(params, NET.clone(remat=x), key) for x in REMAT)
    for recomputed in others:
        assert jax.tree.structure(stored) == jax.tree.structure(recomputed)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
            stored,
            recomputed,
        )
    # Adding one vector to every key cancels in the softmax; all else must learn.
    for path, leaf in flatten_dict(stored, sep="/").items():
        assert path.endswith("key/bias") or jnp.abs(leaf).max() > 1e-6, path


def test_remat_keeps_less_for_the_backward_pass(params):
    """Not of the compiled program: XLA's CPU backend plans without regard to it."""

    def kept(remat):
        def backward(params):
            net, key = NET.clone(remat=remat), jax.random.key(5)
            return jax.vjp(lambda params: loss(params, net, key), params)[1]

        arrays = jax.tree.leaves(jax.eval_shape(backward, params))
        weights = sum(x.nbytes for x in jax.tree.leaves(params))  # which stay anyway
        return sum(x.size * x.dtype.itemsize for x in arrays) - weights

    none, dots, blocks = map(kept, REMAT)
    assert none > 2 * dots > 2.5 * blocks > 0


def test_remat_goes_by_name_and_was_a_bool(params):
    assert [NET.clone(remat=x).recomputes for x in (False, True)] == ["none", "blocks"]
    with pytest.raises(ValueError, match="one of none, dots, blocks; got 'all'"):
        jax.eval_shape(NET.clone(remat="all").apply, {"params": params}, X, T)


def test_attention_can_be_handed_in(params):
    seen = []

    def watched(q, k, v):
        seen.append(q.shape)
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    net = NET.clone(attention=watched, num_heads=2)
    out = apply(net, params, X, T)
    np.testing.assert_allclose(
        out, apply(NET.clone(num_heads=2), params, X, T), atol=1e-5
    )
    # One block on the way down, one in the middle, two on the way up.
    assert seen == [(4, 16, 2, 16)] * 4


def test_kernels_start_as_ddpms_do():
    net = NET.clone(channels=64, multipliers=(1,), zero_init=UNet.zero_init)
    params = init(net, jax.random.key(6))
    kernel = params["mid_block_0"]["conv1"]["kernel"]  # 3x3, 64 -> 64
    bound = np.sqrt(6 / (9 * 64 + 9 * 64))  # uniform, with variance 1 / fan
    assert 0.999 * bound < jnp.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.01)
    for last in [
        params["conv_out"]["kernel"],
        params["mid_block_0"]["conv2"]["kernel"],
        params["mid_attention"]["out"]["kernel"],
    ]:
        assert 0 < jnp.abs(last).max() < 1e-5
    assert jnp.abs(apply(net, params, X, T)).max() < 1e-3
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith("bias"):
            assert (leaf == 0).all(), path


@pytest.mark.parametrize(
    ("changes", "x", "t", "label", "message"),
    [
        ({}, X[0], T, None, r"images \(b, h, w, c\); got shape \(8, 8, 1\)"),
        ({}, X[:, :7], T, None, "divisible by 2 for 2 levels; got 7x8"),
        ({}, X[:, :, :5], T, None, "divisible by 2 for 2 levels; got 8x5"),
        ({}, X, T[:3], None, r"t must be \(\) or \(4,\); got \(3,\)"),
        ({}, X, T[:, None], None, r"t must be \(\) or \(4,\); got \(4, 1\)"),
        ({}, X, T, LABEL[:2], r"label must be \(\) or \(4,\); got \(2,\)"),
        ({}, X, T, LABEL * 1.0, "label must hold integers; got float32"),
        ({"num_classes": None}, X, T, LABEL, "without num_classes takes no label"),
        ({"num_groups": 3}, X, T, None, "divide every width; got 3 for the width 16"),
        ({"num_heads": 3}, X, T, None, "num_heads must divide the width 32; got 3"),
        ({"head_channels": 5}, X, T, None, "divide the width 32; got 5"),
        ({}, jnp.zeros((4, 8, 8, 3)), T, None, "images of 1 channels; got 3"),
        *(
            ({name: value}, X, T, None, f"{name} must be positive and finite; got")
            for name in ("norm_eps", "time_scale")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ({"freq_shift": 8}, X, T, None, "below half of the 16 channels; got 8"),
        *(
            ({"downsample_padding": value}, X, T, None, "add up to 1 or 2; got")
            for value in ((0, 0), (-1, 2), (9, 9), (2, 1))
        ),
    ],
)
def test_what_does_not_fit_is_refused(params, changes, x, t, label, message):
    with pytest.raises(ValueError, match=message):
        NET.clone(**changes).apply({"params": params}, x, t, label)

"""Every way of convolving gives the numbers of the definition, and its derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks import UNet, convolutions
from ddpm_jax.networks.convolutions import DIRECT, WINOGRAD
from ddpm_jax.networks.layers import nearest_upsample


def large(x, kernel):
    return DIRECT.same(nearest_upsample(x), kernel)


def by_hand(x, kernel):
    """The definition, in float64: a sum over the nine shifted images."""
    h, w = x.shape[1:3]
    x = np.pad(np.asarray(x, np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
    kernel = np.asarray(kernel, np.float64)
    return sum(
        x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3)
    )


@pytest.fixture
def always(monkeypatch):
    """Winograd's filtering on the small images of a test, too."""
    monkeypatch.setattr(convolutions, "_worthwhile", lambda x, kernel: True)


def some(channels, features, height=4, width=6):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (2, height, width, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, features))
    tangents = (
        jax.random.normal(keys[2], x.shape),
        jax.random.normal(keys[3], kernel.shape),
    )
    return (x, kernel), tangents


@pytest.mark.parametrize(
    "function, definition",
    [
        (DIRECT.same, by_hand),
        (WINOGRAD.same, by_hand),
        (DIRECT.upsampled, large),
        (WINOGRAD.upsampled, large),
    ],
)
def test_values_are_the_definition_s(function, definition, always):
    (x, kernel), _ = some(5, 3)
    np.testing.assert_allclose(
        function(x, kernel), definition(x, kernel), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "function, definition",
    [
        (WINOGRAD.same, DIRECT.same),
        (DIRECT.upsampled, large),
        (WINOGRAD.upsampled, large),
    ],
)
def test_derivatives_are_the_definition_s(function, definition, always):
    """Of both arguments, forward and backward, through what follows."""
    at, tangents = some(5, 3)

    def outcome(function):
        def total(*arguments):
            return jnp.sum(jnp.sin(function(*arguments)))

        return jax.grad(total, (0, 1))(*at), jax.jvp(function, at, tangents)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        outcome(function),
        outcome(definition),
    )


@pytest.mark.parametrize(
    "height, width, channels, dtype, same, upsampled",
    [
        (16, 16, 128, "float32", 16, 9),
        (17, 16, 128, "float32", 0, 9),
        (16, 17, 128, "float32", 0, 9),
        (4, 4, 128, "float32", 0, 0),
        (16, 16, 64, "float32", 0, 0),
        (256, 256, 128, "float32", 0, 0),
        (16, 16, 128, "bfloat16", 0, 0),
    ],
)
def test_winograd_s_filtering_is_taken_where_it_is_faster(
    height, width, channels, dtype, same, upsampled
):
    x = jax.ShapeDtypeStruct((1, height, width, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), "float32")
    for function, products in zip(WINOGRAD, (same, upsampled), strict=True):
        jaxpr = jax.make_jaxpr(function)(x, kernel)
        text = str(jaxpr)
        assert text.count("dot_general[") == products
        assert ("conv_general_dilated[" in text) == (products == 0)
        assert jaxpr.out_avals[0].dtype == dtype


def test_sums_of_taps_are_rounded_once():
    """In bfloat16 as in float32: what is added up are the parameters themselves."""
    (x, kernel), _ = some(16, 8)
    x = x.astype(jnp.bfloat16)
    exact = np.asarray(DIRECT.upsampled(x.astype(jnp.float32), kernel))

    def error(kernel):
        return np.std(np.asarray(DIRECT.upsampled(x, kernel), np.float32) - exact)

    assert error(kernel) < 0.9 * error(kernel.astype(jnp.bfloat16))


@pytest.mark.parametrize(("multipliers", "remat"), [((1, 2), "none"), ((1,), "blocks")])
def test_a_network_is_the_same_function_by_either(multipliers, remat, always):
    network = UNet(
        out_channels=2,
        channels=8,
        multipliers=multipliers,
        num_blocks=1,
        num_groups=4,
        attention_resolutions=(),
        remat=remat,
    )
    x = jax.random.normal(jax.random.key(0), (2, 4, 8, 2))
    params = jax.jit(network.init)(jax.random.key(1), x, jnp.zeros(2))["params"]
    params = jax.tree.map(
        lambda p: p + 0.1 * np.sin(np.arange(p.size, dtype="f")).reshape(p.shape),
        params,
    )

    @partial(jax.jit, static_argnums=0)
    def output(network, params):
        return network.apply({"params": params}, x, jnp.ones(2))

    @partial(jax.jit, static_argnums=0)
    def gradient(network, params):
        return jax.grad(lambda p: jnp.sum(jnp.sin(output(network, p))))(params)

    ours = network.clone(convolutions=WINOGRAD)
    program = str(jax.make_jaxpr(partial(output, ours))(params))
    halved = len(multipliers) - 1
    assert program.count("conv_general_dilated[") == halved
    outcome = output if remat == "none" else gradient
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
        outcome(network, params),
        outcome(ours, params),
    )

"""Model FLOPs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from ddpm_jax.flops import model_flops
from ddpm_jax.mesh import make_mesh
from ddpm_jax.networks.convolutions import direct_upsampled
from ddpm_jax.networks.layers import Downsample

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(x, w, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(x, w, dimension_numbers=DIMENSIONS, **options)


def gradient(function):
    return jax.grad(lambda *values: jnp.sum(function(*values)), argnums=(0, 1))


def printing(a, b):
    """With an equation that has no outputs."""
    jax.debug.print("{}", a.sum())
    return a @ b


X, W = struct(2, 8, 8, 3), struct(3, 3, 3, 5)
ONE = 2 * (2 * 8 * 8) * 5 * (3 * 3 * 3)  # of X with W


@pytest.mark.parametrize(
    ("function", "arguments", "flops"),
    [
        (jnp.dot, (struct(4, 5), struct(5, 6)), 2 * 4 * 5 * 6),
        (
            lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
            (struct(7, 4, 5), struct(7, 5, 6)),
            7 * 2 * 4 * 5 * 6,
        ),
        (
            gradient(lambda a, b: (a @ b) ** 2),
            (struct(4, 5), struct(5, 6)),
            3 * 2 * 4 * 5 * 6,
        ),
        (convolve, (X, W), ONE),
        (printing, (struct(4, 5), struct(5, 6)), 2 * 4 * 5 * 6),
        (gradient(lambda x, w: convolve(x, w) ** 2), (X, W), 3 * ONE),
        (
            gradient(lambda x, w: convolve(x, w, window_strides=(2, 2)) ** 2),
            (X, W),
            3 * ONE / 4,
        ),
        (
            lambda x, w: convolve(x, w, feature_group_count=3),
            (X, struct(3, 3, 1, 6)),
            2 * 128 * 6 * 9,
        ),
        (
            lambda a: lax.scan(lambda a, _: (a @ a, None), a, None, length=9)[0],
            (struct(4, 4),),
            9 * 2 * 4**3,
        ),
        (
            lambda a: lax.cond(a[0, 0] > 0, lambda a: a @ a, lambda a: a, a),
            (struct(4, 4),),
            2 * 4**3,
        ),
        (jax.jit(jax.checkpoint(lambda a: a @ a)), (struct(4, 4),), 2 * 4**3),
        (lambda a: a + jnp.exp(a), (struct(4, 4),), 0),
    ],
)
def test_a_count_by_hand(function, arguments, flops):
    assert model_flops(function, *arguments) == flops


def test_an_upsampled_convolution_multiplies_four_taps_a_pixel():
    x, kernel = struct(2, 8, 8, 3), struct(3, 3, 3, 5)
    forward = 2 * (2 * 16 * 16) * 5 * (4 * 3)
    assert model_flops(direct_upsampled, x, kernel) == forward
    backward = gradient(lambda x, w: direct_upsampled(x, w) ** 2)
    assert model_flops(backward, x, kernel) == 3 * forward


def test_a_downsampling_convolution_counts_its_outputs():
    layer, x = Downsample(), struct(2, 8, 8, 3)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert model_flops(layer.apply, params, x) == 2 * (2 * 4 * 4) * 3 * 27


def test_the_work_of_all_devices_is_counted():
    mesh, rows = make_mesh(), PartitionSpec(("data", "fsdp"))
    mapped = jax.shard_map(
        jnp.dot, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    assert model_flops(mapped, struct(16, 5), struct(5, 6)) == 2 * 16 * 5 * 6

"""The U-Net as a function: sizes, labels, dropout, precision, and what it refuses."""

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.networks import UNet


def count(net, size, channels=3):
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    step = jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image, step)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("size", "multipliers", "params"),
    [
        (32, (1, 2, 2, 2), 35_746_307),
        (64, (1, 2, 2, 2, 4), 78_700_803),
        (256, (1, 1, 2, 2, 4, 4), 113_673_219),
    ],
)
def test_the_published_networks_have_their_published_sizes(size, multipliers, params):
    assert count(UNet(3, multipliers=multipliers), size) == params

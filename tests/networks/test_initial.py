"""Initial weights drawn together are those that each layer would draw."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks import UNet, initial, presets
from ddpm_jax.networks.layers import ScaledUniform

SMALL = {
    "channels": 8,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "num_groups": 4,
    "num_classes": 3,
}
INPUTS = (jnp.zeros((1, 8, 8, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))


@pytest.mark.parametrize("rules", [{}, presets.IMPROVED_INIT])
def test_they_are_those_of_init_to_the_bit(rules, monkeypatch):
    network, key = UNet(1, **SMALL, **rules), jax.random.key(3)
    theirs = jax.jit(network.init)(key, *INPUTS)["params"]
    for together in (5000, 2**23):
        monkeypatch.setattr(initial, "TOGETHER", together)
        make = jax.jit(partial(initial.initial_params, network))
        ours = make(key, *INPUTS)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    kernel = ours["down_0_block_0"]["conv1"]["kernel"]
    assert np.std(kernel) > 0.01


def test_no_table_of_theirs_is_in_the_program():
    """The keys of millions of numbers are computed, and not written down."""

    def length(channels):
        network = UNet(1, **SMALL | {"channels": channels})
        make = jax.jit(initial.initial_params, static_argnums=0)
        return len(make.lower(network, jax.random.key(3), *INPUTS).as_text())

    assert length(64) < 1.1 * length(8)


@pytest.mark.parametrize("shape", [(5, 7), (3, 3, 4, 16)])
@pytest.mark.parametrize("fan", ["fan_in", "fan_avg"])
def test_the_rule_is_variance_scaling(shape, fan):
    key = jax.random.key(0)
    usual = nn.initializers.variance_scaling(0.7, fan, "uniform")
    np.testing.assert_array_equal(
        ScaledUniform(0.7, fan)(key, shape), usual(key, shape)
    )

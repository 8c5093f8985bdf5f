"""The initial weights of a U-Net, their random numbers drawn together.

Drawn one by one, each kernel compiles a generator of its own: together these take
longer to compile than the network does.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.networks.layers import Initializer, ScaledUniform
from ddpm_jax.networks.unet import UNet

TOGETHER = 2**23
"""Numbers drawn at once at most, which take some 200 MB on the way."""


class _Waiting(NamedTuple):
    """A kernel that is still to be drawn."""

    placeholder: jax.Array
    key: jax.Array
    rule: ScaledUniform

    @property
    def shape(self) -> tuple[int, ...]:
        return self.placeholder.shape


def initial_params(network: UNet, key: jax.Array, *inputs: Any) -> Any:
    """The parameters of `network.init(key, *inputs)`, to the bit. Consumes `key`.

    Args:
        network: the U-Net.
        key: of its random numbers, ().
        inputs: x (b, h, w, c), t (b,) and labels (b,), as `UNet.__call__` takes them.

    Returns:
        Nested dicts of float32 arrays.
    """
    if not jax.config.values["jax_threefry_partitionable"]:
        return network.init(key, *inputs)["params"]  # bits depend on how many are drawn
    waiting: list[_Waiting] = []
    rules: dict[str, Any] = {
        name: _later(getattr(network, name), waiting)
        for name in ("kernel_init", "zero_init")
    }
    params = network.clone(**rules, remat="none").init(key, *inputs)["params"]
    drawn = {
        id(kernel.placeholder): value
        for group in _groups(waiting)
        for kernel, value in zip(group, _draw(group), strict=True)
    }
    return jax.tree.map(lambda x: drawn.get(id(x), x), params)


def _later(rule: Initializer, waiting: list[_Waiting]) -> Initializer:
    """A rule that leaves a place, and a note of what belongs there."""
    if not isinstance(rule, ScaledUniform):
        return rule

    def leave(
        key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        placeholder = jnp.zeros(shape, dtype)
        waiting.append(_Waiting(placeholder, key, rule))
        return placeholder

    return leave


def _groups(waiting: list[_Waiting]) -> Iterator[list[_Waiting]]:
    """Kernels that are drawn at once."""
    group: list[_Waiting] = []
    count = 0
    for kernel in waiting:
        if group and count + kernel.placeholder.size > TOGETHER:
            yield group
            group, count = [], 0
        group.append(kernel)
        count += kernel.placeholder.size
    if group:
        yield group


def _draw(group: list[_Waiting]) -> Iterator[jax.Array]:
    """What `ScaledUniform` draws for each.

    Number i of a key is the exclusive or of the two halves of fold_in(key, i).
    """
    sizes = [kernel.placeholder.size for kernel in group]
    keys = jnp.concatenate(
        [
            jnp.broadcast_to(kernel.key, n)
            for kernel, n in zip(group, sizes, strict=True)
        ]
    )
    index = jnp.concatenate([jnp.arange(n, dtype=jnp.uint32) for n in sizes])
    halves = jax.random.key_data(jax.vmap(jax.random.fold_in)(keys, index))
    bits = halves[:, 0] ^ halves[:, 1]
    one = jnp.uint32(np.float32(1).view(np.uint32))
    mantissa = jax.lax.bitcast_convert_type((bits >> 9) | one, jnp.float32)
    flat = (mantissa - 1) * 2 - 1  # U[-1, 1), as `jax.random.uniform` makes it
    for kernel, part in zip(group, jnp.split(flat, np.cumsum(sizes)[:-1]), strict=True):
        yield part.reshape(kernel.shape) * kernel.rule.bound(kernel.shape)

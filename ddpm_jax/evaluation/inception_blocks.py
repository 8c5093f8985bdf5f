"""The parts of the FID Inception (`inception.Inception`): its pools are its own.

Submodules have the names of pytorch-fid's, by which weights are found.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv(
    x: jax.Array,
    features: int,
    kernel: int | tuple[int, int],
    name: str,
    *,
    stride: int = 1,
    padding: str = "SAME",
) -> jax.Array:
    """A convolution with its folded batch norm and ReLU; with a stride, unpadded.

    Args:
        x: (n, h, w, c).
        features: channels of the result.
        kernel: its size, one number or (height, width).
        name: of its parameters.
        stride: pixels between two outputs.
        padding: as XLA has it.

    Returns:
        (n, h', w', features).
    """
    if stride > 1:
        padding = "VALID"
        # XLA's space-to-batch has computed such convolutions wrongly on TPUs where
        # they were fused with what comes before and a device has few images.
        x = jax.lax.optimization_barrier(x)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    layer = nn.Conv(features, size, stride, padding, precision="highest", name=name)
    return nn.relu(layer(x))


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of 3x3, every second one, unpadded.

    Args:
        x: (n, h, w, c).

    Returns:
        (n, h', w', c).
    """
    return nn.max_pool(x, (3, 3), (2, 2))


def same_max_pool(x: jax.Array) -> jax.Array:
    """The maximum of the neighbours.

    Args:
        x: (n, h, w, c).

    Returns:
        (n, h, w, c).
    """
    return nn.max_pool(x, (3, 3), padding="SAME")


def mean_pool(x: jax.Array) -> jax.Array:
    """The mean of the neighbours that there are: at an edge, of fewer than nine.

    Args:
        x: (n, h, w, c).

    Returns:
        (n, h, w, c).
    """
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


class BlockA(nn.Module):
    """Branches of 1x1, 5x5 and twice 3x3, at 35x35."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> the branches' channels, one after another."""
        five = conv(x, 48, 1, "branch5x5_1")
        three = conv(x, 64, 1, "branch3x3dbl_1")
        three = conv(three, 96, 3, "branch3x3dbl_2")
        branches = [
            conv(x, 64, 1, "branch1x1"),
            conv(five, 64, 5, "branch5x5_2"),
            conv(three, 96, 3, "branch3x3dbl_3"),
            conv(mean_pool(x), self.pooled, 1, "branch_pool"),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    """From 35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> the branches' channels, one after another."""
        double = conv(x, 64, 1, "branch3x3dbl_1")
        double = conv(double, 96, 3, "branch3x3dbl_2")
        branches = [
            conv(x, 384, 3, "branch3x3", stride=2),
            conv(double, 96, 3, "branch3x3dbl_3", stride=2),
            max_pool(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    """Branches of 1x1, and of 1x7 and 7x1 once and twice, at 17x17."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> the branches' channels, one after another."""
        seven = conv(x, self.width, 1, "branch7x7_1")
        seven = conv(seven, self.width, (1, 7), "branch7x7_2")
        double = conv(x, self.width, 1, "branch7x7dbl_1")
        for i, kernel in ((2, (7, 1)), (3, (1, 7)), (4, (7, 1))):
            double = conv(double, self.width, kernel, f"branch7x7dbl_{i}")
        branches = [
            conv(x, 192, 1, "branch1x1"),
            conv(seven, 192, (7, 1), "branch7x7_3"),
            conv(double, 192, (1, 7), "branch7x7dbl_5"),
            conv(mean_pool(x), 192, 1, "branch_pool"),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    """From 17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> the branches' channels, one after another."""
        three = conv(x, 192, 1, "branch3x3_1")
        seven = conv(x, 192, 1, "branch7x7x3_1")
        seven = conv(seven, 192, (1, 7), "branch7x7x3_2")
        seven = conv(seven, 192, (7, 1), "branch7x7x3_3")
        branches = [
            conv(three, 320, 3, "branch3x3_2", stride=2),
            conv(seven, 192, 3, "branch7x7x3_4", stride=2),
            max_pool(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockE(nn.Module):
    """At 8x8. The graph has two that differ in the pool: a mean, then a maximum."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, h, w, c) -> the branches' channels, one after another."""
        three = conv(x, 384, 1, "branch3x3_1")
        double = conv(x, 448, 1, "branch3x3dbl_1")
        double = conv(double, 384, 3, "branch3x3dbl_2")
        branches = [
            conv(x, 320, 1, "branch1x1"),
            conv(three, 384, (1, 3), "branch3x3_2a"),
            conv(three, 384, (3, 1), "branch3x3_2b"),
            conv(double, 384, (1, 3), "branch3x3dbl_3a"),
            conv(double, 384, (3, 1), "branch3x3dbl_3b"),
            conv(self.pool(x), 192, 1, "branch_pool"),
        ]
        return jnp.concatenate(branches, axis=-1)

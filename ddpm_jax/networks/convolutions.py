"""The 3x3 convolution, and that of an image enlarged twice, in two ways each.

`DIRECT` is XLA's own convolution. `WINOGRAD` spends 2.25 times fewer multiplications on
the same numbers, to rounding; on a CPU, where they are what takes the time, it wins.
It is larger: to compile, and in training, where the sums of the inputs are kept for the
backward pass. Neither has parameters: both take kernels (3, 3, channels, features) in
float32, and their result is of the image's dtype.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Convolution = Callable[[jax.Array, jax.Array], jax.Array]
"""(b, h, w, c) and a kernel (3, 3, c, features) -> (b, h', w', features)."""

# An array and an axis -> its sums along it.
_Sums = Callable[[jax.Array, int], tuple[jax.Array, ...]]


class Convolutions(NamedTuple):
    """How a network convolves: functions of an image and a kernel (3, 3, c, features).

    `DIRECT` computes them by their definition, `WINOGRAD` as Lavin & Gray 2016.

    Attributes:
        same: (b, h, w, c) -> (b, h, w, features), zeros around the image.
        upsampled: (b, h, w, c) -> (b, 2h, 2w, features), of each pixel repeated twice
            along both axes.
    """

    same: Convolution
    upsampled: Convolution


def conv(
    x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """XLA's convolution of stride 1.

    Args:
        x: (b, h, w, c).
        kernel: (i, j, c, features).
        padding: zeros (before, after) along both axes.

    Returns:
        (b, h', w', features).
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 3x3 convolution as it is defined.

    Args:
        x: (b, h, w, c).
        kernel: (3, 3, c, features).

    Returns:
        (b, h, w, features), of the dtype of x.
    """
    return conv(x, kernel.astype(x.dtype), [(1, 1), (1, 1)])


def direct_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of an image of twice the size, which is never made.

    Of the 3x3 pixels of the larger image that an output pixel reads, some are one pixel
    of the smaller: which, depends only on whether its row and column are odd. So each
    of the four kinds of output pixels is a 2x2 convolution of the smaller image, with
    sums of the kernel's taps: 4 products in place of 9.

    Args:
        x: (b, h, w, c).
        kernel: (3, 3, c, features).

    Returns:
        (b, 2h, 2w, features), of the dtype of x.
    """

    def outputs(row: int, column: int) -> jax.Array:
        taps = _summed(_summed(kernel, 0, row), 1, column).astype(x.dtype)
        return conv(x, taps, [(1 - odd, odd) for odd in (row, column)])

    # One convolution with four times the features would have a backward pass that
    # XLA's CPU backend computes a hundred times slower.
    even, odd = (_interleave(outputs(i, 0), outputs(i, 1), 2) for i in (0, 1))
    return _interleave(even, odd, 1)


def _summed(kernel: jax.Array, axis: int, odd: int) -> jax.Array:
    """Three taps as two: an even pixel reads (i - 1, i, i), an odd (i, i, i + 1)."""
    first, second, third = jnp.split(kernel, 3, axis)
    pair = (first + second, third) if odd else (first, second + third)
    return jnp.concatenate(pair, axis)


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`direct`, by Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2016).

    Along one axis, the outputs at 2i and 2i + 1 take 4 products of sums of their inputs
    with sums of the taps, in place of 6; along both, 16 in place of 36. Each product is
    one matrix product over all places. Odd sizes and half precision go to `direct`, and
    so do the sizes with which it would be slower.

    Args:
        x: (b, h, w, c).
        kernel: (3, 3, c, features).

    Returns:
        (b, h, w, features), of the dtype of x.
    """
    if x.shape[1] % 2 or x.shape[2] % 2 or not _worthwhile(x, kernel):
        return direct(x, kernel)
    return _filter(x, kernel, _pairs, _four)


def winograd_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`direct_upsampled` by the same filtering: 9 products in place of 16.

    Lavin & Gray 2016: where inputs 2i and 2i + 1 are equal, one of the four sums along
    an axis is 0.

    Args:
        x: (b, h, w, c).
        kernel: (3, 3, c, features).

    Returns:
        (b, 2h, 2w, features), of the dtype of x.
    """
    if not _worthwhile(x, kernel):
        return direct_upsampled(x, kernel)
    return _filter(x, kernel, _equal_pairs, _three)


def _worthwhile(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether fewer multiplications outweigh the sums, by measurements on a CPU."""
    places = x.shape[0] * x.shape[1] * x.shape[2]
    return (
        x.dtype.itemsize >= 4  # half precision would lose digits in the sums
        and min(kernel.shape[2:]) >= 128  # else the sums of the inputs cost too much
        and places >= 256  # else those of the taps do
        and x.size <= 2**22  # else four times the inputs leave the caches
    )


def _filter(x: jax.Array, kernel: jax.Array, inputs: _Sums, taps: _Sums) -> jax.Array:
    """Sums of the inputs and of the taps along both axes, and products between."""
    channels, features = kernel.shape[2:]

    def product(x: jax.Array, tap: jax.Array) -> jax.Array:
        # As one matrix: gradients that sum over three axes are slow in XLA:CPU.
        y = x.reshape(-1, channels) @ tap.reshape(channels, features)
        return y.reshape(*x.shape[:3], features)

    rows = [
        _outputs(map(product, inputs(row, 2), taps(row_taps, 1)), 2)
        for row, row_taps in zip(inputs(x, 1), taps(kernel, 0), strict=True)
    ]
    return _outputs(rows, 1)


def _pairs(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """The four sums of the inputs 2i - 1, 2i, 2i + 1 and 2i + 2."""
    shape = x.shape
    x = x.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1))
    before, after = _shifted(odd, axis, 1), _shifted(even, axis, -1)
    return before - odd, even + odd, odd - even, even - after


def _equal_pairs(x: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """The same of an image twice as large, but for the third, which is 0."""
    return _shifted(x, axis, 1) - x, x, x - _shifted(x, axis, -1)


def _shifted(x: jax.Array, axis: int, count: int) -> jax.Array:
    """Element i is what element i - count was, and 0 where there was none."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (count, -count, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def _four(kernel: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    first, second, third = jnp.split(kernel, 3, axis)
    ends = first + third
    return first, (ends + second) / 2, (ends - second) / 2, third


def _three(kernel: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    first, second, third = jnp.split(kernel, 3, axis)
    return first, first + second + third, third


def _outputs(products: Iterable[jax.Array], axis: int) -> jax.Array:
    """The outputs at 2i and 2i + 1 from the products, of which the third may be 0."""
    first, second, *third, last = products
    even, odd = first + second, second - last
    for product in third:
        even, odd = even + product, odd - product
    return _interleave(even, odd, axis)


def _interleave(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    shape = even.shape
    both = jnp.stack([even, odd], axis + 1)
    return both.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])


DIRECT = Convolutions(direct, direct_upsampled)
"""XLA's own convolutions."""

WINOGRAD = Convolutions(winograd, winograd_upsampled)
"""Winograd's filtering (Lavin & Gray 2016): faster on a CPU, and larger."""

"""How images are made as large as a feature network takes them: one rule, one function.

The rules differ by more than a FID differs between methods (Parmar et al. 2022), so
each is that of the code it is named after, and the result is not rounded. Images are
(n, h, w, c) of 0..255, uint8 or floating point; the results are float32. All of them
can be jitted and run on the device, in float32 also where products are faster in less.
"""

import jax
import jax.numpy as jnp
import numpy as np

Size = tuple[int, int]  # height, width


def tf1_bilinear(images: jax.Array, size: Size) -> jax.Array:
    """TensorFlow 1's `resize_bilinear`: pixel i comes from i * h / H, no antialiasing.

    It stands in the graph of 2015-12-05, so it is the resize of FID's authors (Heusel
    et al. 2017), of OpenAI's evaluator, of torch-fidelity and of EDM.

    Args:
        images: (n, h, w, c), 0..255.
        size: (height, width).

    Returns:
        (n, height, width, c) float32.
    """
    return _bilinear(images, [_tf1_places(n, m) for n, m in _sides(images, size)])


def torch_bilinear(images: jax.Array, size: Size) -> jax.Array:
    """PyTorch's `interpolate(mode="bilinear")`: half-pixel centres, no antialiasing.

    As in pytorch-fid, and in clean-fid's `legacy_pytorch` (Parmar et al. 2022).

    Args:
        images: (n, h, w, c), 0..255.
        size: (height, width).

    Returns:
        (n, height, width, c) float32.
    """
    return _bilinear(images, [_torch_places(n, m) for n, m in _sides(images, size)])


def pil_bicubic(images: jax.Array, size: Size) -> jax.Array:
    """Pillow's bicubic on channels of floats (mode "F"), cut to 0..255: clean-fid's.

    Parmar et al. 2022. The kernel is Keys' with a = -1/2, as wide as the input's pixels
    where it shrinks.

    Args:
        images: (n, h, w, c), 0..255.
        size: (height, width).

    Returns:
        (n, height, width, c) float32.
    """
    return jnp.clip(_bicubic(images, size, np.float64), 0.0, 255.0)


def torch_bicubic(images: jax.Array, size: Size) -> jax.Array:
    """PyTorch's `interpolate(mode="bicubic", antialias=True)`: EDM2's for DINOv2.

    Karras et al. 2024. Pillow's rule, its weights computed in float32.

    Args:
        images: (n, h, w, c), 0..255.
        size: (height, width).

    Returns:
        (n, height, width, c) float32.
    """
    return _bicubic(images, size, np.float32)


def _bicubic(images: jax.Array, size: Size, precision: type) -> jax.Array:
    rows, columns = (_weights(n, m, precision) for n, m in _sides(images, size))
    x = jnp.asarray(images, jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("Hh,nhwc,Ww->nHWc", rows, x, columns, precision=highest)


def _weights(old: int, new: int, precision: type) -> np.ndarray:
    """The matrix (new, old) of a bicubic along one side, computed in a precision."""
    scale = precision(old / new)
    centres = (np.arange(new, dtype=precision) + precision(0.5)) * scale
    places = np.arange(old, dtype=precision) - centres[:, None] + precision(0.5)
    weights = keys_kernel(np.abs(places) / max(scale, precision(1)), -0.5)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def keys_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981, eq. 4).

    Args:
        distance: at least 0, in pixels, of any shape.
        a: the kernel's parameter: -1/2 in Pillow, -3/4 in PyTorch.

    Returns:
        The weights, of the same shape.
    """
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _sides(images: jax.Array, size: Size) -> list[tuple[int, int]]:
    return list(zip(images.shape[1:3], size, strict=True))


def _tf1_places(old: int, new: int) -> np.ndarray:
    return np.arange(new, dtype=np.float32) * np.float32(old / new)


def _torch_places(old: int, new: int) -> np.ndarray:
    scale = np.float64(np.float32(old / new))  # rounded once more, after the product
    places = (scale * (np.arange(new) + 0.5) - 0.5).astype(np.float32)
    return np.maximum(places, np.float32(0.0))


def _bilinear(images: jax.Array, places: list[np.ndarray]) -> jax.Array:
    """Images at rows and columns that lie between theirs."""
    x = jnp.asarray(images, jnp.float32)
    for axis, place in zip((2, 1), places[::-1], strict=True):  # columns first, as TF
        lower = place.astype(np.int32)
        upper = np.minimum(lower + 1, x.shape[axis] - 1)
        part = np.expand_dims(place - lower, [i for i in range(4) if i != axis])
        first = jnp.take(x, lower, axis=axis)
        x = first + (jnp.take(x, upper, axis=axis) - first) * part
    return x

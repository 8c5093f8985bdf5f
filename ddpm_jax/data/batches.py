"""Batches as a pure function of the step, for sets that are held on the device.

The host names the examples of a step (`batch_indices`); the device, inside the jitted
step, gathers them, flips them and scales them to [-1, 1]. There is no iterator and so
no state to save: a run resumed at step s goes on with the batch of step s.
"""

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Images = TypeVar("Images", jax.Array, np.ndarray)


def batch_indices(
    seed: int, step: int, batch_size: int, num_examples: int
) -> np.ndarray:
    """The examples of one global batch.

    All batches laid end to end are one shuffled epoch after another: each epoch shows
    every example once, and a batch may end one epoch and begin the next (or span
    several, if it is larger than the set).

    Args:
        seed: of the shuffling.
        step: which batch, from 0.
        batch_size: examples in a batch.
        num_examples: n, those in the set.

    Returns:
        Numbers in 0..num_examples-1, int64, (batch_size,).

    Raises:
        ValueError: if `seed` or `step` is negative, or a size is less than 1.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.data import batch_indices
        >>> epoch = [batch_indices(0, step, 4, num_examples=12) for step in range(3)]
        >>> np.sort(np.concatenate(epoch)).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    if seed < 0 or step < 0:
        raise ValueError(
            f"seed and step must not be negative; got seed {seed}, step {step}"
        )
    if batch_size < 1 or num_examples < 1:
        raise ValueError(
            "batch_size and num_examples must be at least 1; "
            f"got batch_size {batch_size}, num_examples {num_examples}"
        )
    position = int(step) * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(position, num_examples)
    index = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        within = epochs == epoch
        index[within] = _permutation(seed, epoch, num_examples)[places[within]]
    return index


def example_at(seed: int, position: int, num_examples: int) -> int:
    """The example at one position of the stream that `batch_indices` cuts up.

    Args:
        seed: of the shuffling.
        position: step * batch_size + the place in the batch.
        num_examples: those in the set.

    Returns:
        Its number, in 0..num_examples-1.
    """
    epoch, place = divmod(int(position), num_examples)
    return int(_permutation(seed, epoch, num_examples)[place])


@functools.lru_cache(maxsize=2)  # a batch rarely meets more than two epochs
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def gather(
    images: jax.Array, labels: jax.Array | None, index: jax.Array | np.ndarray
) -> tuple[jax.Array, jax.Array | None]:
    """The images and labels at some indices.

    Args:
        images: (n, h, w, c).
        labels: (n,), or None.
        index: (b,), in 0..n-1.

    Returns:
        Images (b, h, w, c), and labels (b,) or None.
    """
    return images[index], None if labels is None else labels[index]


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2. Consumes `keys`.

    Args:
        keys: (b,), one key per image, so that an image's flip does not depend on which
            others share its batch or its device.
        images: (b, h, w, c).

    Returns:
        (b, h, w, c).
    """
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1, :], images)


def to_float(images: Images) -> Images:
    """uint8 in 0..255 to float in [-1, 1]: x / 127.5 - 1, exact at both ends.

    Computed as (2 x - 255) / 255, whose numerator is exact: compiled, a division by a
    constant becomes a product with its reciprocal, and 255 / 127.5 - 1 then exceeds 1.

    Args:
        images: uint8 of any shape.

    Returns:
        float32 (float64 under x64), of the same shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.data import to_float
        >>> print(to_float(jnp.array([0, 51, 255], jnp.uint8)))
        [-1.  -0.6  1. ]
    """
    return (2.0 * images.astype(jnp.result_type(float)) - 255.0) / 255.0

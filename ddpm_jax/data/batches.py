"""Batches as a pure function of the step, for sets that are held on the device.

The host names the examples of a step (`batch_indices`); the device, inside the jitted
step, gathers them, flips them and scales them to [-1, 1]. There is no iterator and so
no state to save: a run resumed at step s goes on with the batch of step s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def batch_indices(
    seed: int, step: int, batch_size: int, num_examples: int
) -> np.ndarray:
    """The examples of one global batch, (batch_size,) int64 in 0..num_examples-1.

    All batches laid end to end are one shuffled epoch after another: each epoch shows
    every example once, and a batch may end one epoch and begin the next (or span
    several, if it is larger than the set).

    Raises:
        ValueError: if `seed` or `step` is negative, or a size is less than 1.
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
    """The example at one position of the stream that `batch_indices` cuts up."""
    epoch, place = divmod(int(position), num_examples)
    return int(_permutation(seed, epoch, num_examples)[place])


@functools.lru_cache(maxsize=2)  # a batch rarely meets more than two epochs
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def gather(
    images: jax.Array, labels: jax.Array | None, index: jax.Array | np.ndarray
) -> tuple[jax.Array, jax.Array | None]:
    """The images (b, h, w, c) and labels (b,) at `index` (b,); no labels give None."""
    return images[index], None if labels is None else labels[index]


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Each image mirrored left to right with probability 1/2. Consumes `keys`.

    Args:
        keys: (b,), one key per image, so that an image's flip does not depend on which
            others share its batch or its device.
        images: (b, h, w, c).
    """
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1, :], images)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 in 0..255 to float in [-1, 1]: x / 127.5 - 1, exact at both ends.

    Computed as (2 x - 255) / 255, whose numerator is exact: compiled, a division by a
    constant becomes a product with its reciprocal, and 255 / 127.5 - 1 then exceeds 1.
    """
    return (2.0 * images.astype(jnp.result_type(float)) - 255.0) / 255.0

"""Where images come from, and which of them make up the batch of a step.

A set that fits in memory is an `ImageArrays`; its batches are a pure function of the
step (`batch_indices`), gathered on the device. A set that does not fit is a
random-access source, and `stream_batches` reads its batches. Nothing here imports
TensorFlow Datasets or Grain until a function that needs them is called.
"""

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.batches import batch_indices, gather, random_flip, to_float
from ddpm_jax.data.digits import load_digits

__all__ = [
    "ImageArrays",
    "batch_indices",
    "gather",
    "load_digits",
    "random_flip",
    "to_float",
]

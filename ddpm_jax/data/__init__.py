"""Where images come from, and which of them make up the batch of a step.

A set that fits in memory is an `ImageArrays`; its batches are a pure function of the
step (`batch_indices`), gathered on the device. A set that does not fit is a
random-access source, and `stream_batches` reads the same batches from it. Importing
this package imports neither TensorFlow Datasets nor Grain: functions that need them do.
"""

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.batches import batch_indices, gather, random_flip, to_float
from ddpm_jax.data.digits import load_digits
from ddpm_jax.data.folder import FolderSource, load_folder
from ddpm_jax.data.sources import ImageSource, num_bytes, read_all
from ddpm_jax.data.stream import places, stream_batches
from ddpm_jax.data.tfds_source import TfdsSource, load_tfds, open_tfds

__all__ = [
    "FolderSource",
    "ImageArrays",
    "ImageSource",
    "TfdsSource",
    "batch_indices",
    "gather",
    "load_digits",
    "load_folder",
    "load_tfds",
    "num_bytes",
    "open_tfds",
    "places",
    "random_flip",
    "read_all",
    "stream_batches",
    "to_float",
]

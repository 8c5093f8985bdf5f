"""Where images come from, and which of them make up the batch of a step.

A set that fits in memory is an `ImageArrays`; its batches are a pure function of the
step (`batch_indices`), gathered on the device. A set that does not fit is a
random-access source, and `stream_batches` reads the same batches from it. Importing
this package imports neither TensorFlow Datasets nor Grain: functions that need them do.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.data.arrays import ImageArrays as ImageArrays
    from ddpm_jax.data.batches import batch_indices as batch_indices
    from ddpm_jax.data.batches import gather as gather
    from ddpm_jax.data.batches import random_flip as random_flip
    from ddpm_jax.data.batches import to_float as to_float
    from ddpm_jax.data.digits import load_digits as load_digits
    from ddpm_jax.data.folder import FolderSource as FolderSource
    from ddpm_jax.data.folder import load_folder as load_folder
    from ddpm_jax.data.labels import natural_order as natural_order
    from ddpm_jax.data.labels import relabelled as relabelled
    from ddpm_jax.data.sources import ImageSource as ImageSource
    from ddpm_jax.data.sources import num_bytes as num_bytes
    from ddpm_jax.data.sources import read_all as read_all
    from ddpm_jax.data.stream import places as places
    from ddpm_jax.data.stream import stream_batches as stream_batches
    from ddpm_jax.data.tfds_source import TfdsSource as TfdsSource
    from ddpm_jax.data.tfds_source import load_tfds as load_tfds
    from ddpm_jax.data.tfds_source import open_tfds as open_tfds

_HOME = {
    "ImageArrays": "arrays",
    "batch_indices": "batches",
    "gather": "batches",
    "random_flip": "batches",
    "to_float": "batches",
    "load_digits": "digits",
    "FolderSource": "folder",
    "load_folder": "folder",
    "natural_order": "labels",
    "relabelled": "labels",
    "ImageSource": "sources",
    "num_bytes": "sources",
    "read_all": "sources",
    "places": "stream",
    "stream_batches": "stream",
    "TfdsSource": "tfds_source",
    "load_tfds": "tfds_source",
    "open_tfds": "tfds_source",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Where images come from, and which of them make up the batch of a step.

A set that fits in memory is an `ImageArrays`; its batches are a pure function of the
step (`batch_indices`), gathered on the device. A set that does not fit is a
random-access source, and `stream_batches` reads the same batches from it. Importing
this package imports neither TensorFlow Datasets nor Grain: functions that need them do.
"""

import importlib
from typing import Any

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

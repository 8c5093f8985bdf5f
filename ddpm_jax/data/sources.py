"""Random access to a set of images, whether or not it fits in memory."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ddpm_jax.data.arrays import ImageArrays

Example = Mapping[str, np.ndarray]  # "image": (h, w, c) uint8; "label": () int32 if any


class ImageSource(Protocol):
    """Labelled images of one size, read one by one and in any order.

    An example is {"image": uint8 (h, w, c), "label": int32}, without the label where
    the source has none.
    """

    @property
    def name(self) -> str:
        """For messages and logs."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of every image."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name per class, in label order; empty if unlabelled."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


def num_bytes(source: ImageSource) -> int:
    """What the images of a source take up in memory, as uint8."""
    return len(source) * math.prod(source.image_shape)


def read_all(source: ImageSource, *, progress: bool = True) -> ImageArrays:
    """Every example of a source, in order, with a progress bar if it takes a while.

    Raises:
        ValueError: what the source raises, or if the source is empty.
    """
    images = np.empty((len(source), *source.image_shape), np.uint8)
    labels = np.empty(len(source), np.int32) if source.label_names else None
    bar = tqdm(
        range(len(source)),
        desc=f"reading {source.name}",
        unit=" images",
        delay=1.0,  # seconds: a short wait needs no bar
        disable=None if progress else True,  # None: shown on a terminal only
    )
    for i in bar:
        example = source[i]
        images[i] = example["image"]
        if labels is not None:
            labels[i] = example["label"]
    return ImageArrays(
        images=images, labels=labels, label_names=source.label_names, name=source.name
    )

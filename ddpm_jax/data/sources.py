"""Random access to a set of images, whether or not it fits in memory."""

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ddpm_jax.data.arrays import ImageArrays

LISTED = 10  # examples that an error names at most
HOPELESS = 100  # if so many are bad and none is good, so are the others

Example = Mapping[str, np.ndarray]  # "image": (h, w, c) uint8; "label": () int32 if any


class ImageSource(Protocol):
    """Labelled images of one size, read one by one and in any order.

    An example is {"image": uint8 (h, w, c), "label": int32}, without the label where
    the source has none. A source may have `notes`, a tuple of lines that a person
    should know of it, and `check_files`, which see.
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
    """What the images of a source take up in memory, as uint8.

    Args:
        source: anything with a length and an `image_shape`.

    Returns:
        Bytes.
    """
    return len(source) * math.prod(source.image_shape)


def check_files(source: ImageSource) -> None:
    """Has a source look for examples that it can tell to be bad without reading them.

    Args:
        source: one that has a `check_files`; another passes.

    Raises:
        ValueError: naming all of them (ten, and how many).
    """
    check = getattr(source, "check_files", None)
    if check is not None:
        check()


def read_all(source: ImageSource, *, progress: bool = True) -> ImageArrays:
    """Every example of a source, in order, with a progress bar if it takes a while.

    Args:
        source: anything with `__len__` and `__getitem__` (see `ImageSource`).
        progress: whether to show the bar.

    Returns:
        Images (n, h, w, c) uint8, and labels.

    Raises:
        ValueError: if the source is empty, or naming all examples that it raises
            ValueError for (ten, and how many).
    """
    images = np.empty((len(source), *source.image_shape), np.uint8)
    labels = np.empty(len(source), np.int32) if source.label_names else None
    bar = progress_bar(f"reading {source.name}", len(source), progress)
    bad: list[str] = []
    for i in bar:
        try:
            example = source[i]
        except ValueError as error:
            bad.append(str(error))
            if len(bad) == i + 1 == HOPELESS:
                break
            continue
        images[i] = example["image"]
        if labels is not None:
            labels[i] = example["label"]
    bar.close()
    if bad:
        raise ValueError(listed_errors(source.name, bad, i + 1, len(source)))
    return ImageArrays(
        images=images,
        labels=labels,
        label_names=source.label_names,
        name=source.name,
        notes=getattr(source, "notes", ()),
    )


def progress_bar(what: str, num_examples: int, progress: bool = True) -> "tqdm[int]":
    """Counts the examples, on a terminal, after the first second.

    Args:
        what: stands before the bar.
        num_examples: how many there are.
        progress: whether to show it.

    Returns:
        An iterator of their numbers.
    """
    return tqdm(
        range(num_examples),
        desc=what,
        unit=" images",
        delay=1.0,  # seconds: a short wait needs no bar
        disable=None if progress else True,  # None: shown on a terminal only
    )


def listed_errors(name: str, bad: list[str], seen: int, num_examples: int) -> str:
    """One line about examples that cannot be used: ten of them, and how many.

    Args:
        name: of the source.
        bad: a line on each.
        seen: how many were looked at.
        num_examples: how many there are.
    """
    if len(bad) == 1:
        return bad[0]
    of = f"{num_examples:,}" if seen == num_examples else f"the first {seen:,}"
    more = f"; and {len(bad) - LISTED:,} more" if len(bad) > LISTED else ""
    return (
        f"{name}: {len(bad):,} of {of} images cannot be used: "
        f"{'; '.join(bad[:LISTED])}{more}"
    )

"""Sets of images that are measured, read batch by batch: a folder, an .npz, a split."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ddpm_jax.data import ImageArrays, ImageSource
from ddpm_jax.data.listing import list_images
from ddpm_jax.data.pixels import MODES, decode
from ddpm_jax.files import named_errors
from ddpm_jax.interop.npz_files import read_npz
from ddpm_jax.text import some

BATCH = 256  # images that are decoded at a time
ARRAYS = ("arr_0", "images", "samples")  # what OpenAI, this project and others call it
FEWEST = 2  # of which there is a covariance


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images of one size, as uint8 (n, h, w, c) batch by batch, as often as wanted."""

    name: str  # for tables: a path, or a data set and its split
    num: int
    image_shape: tuple[int, int, int]
    batches: Callable[[], Iterator[np.ndarray]]
    facts: dict[str, Any]  # what a protocol records of it


def of_array(images: np.ndarray, name: str, facts: dict[str, Any]) -> ImageSet:
    """Images in memory.

    Raises:
        ValueError: unless they are two or more, uint8, (n, h, w, c) with c 1 or 3.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in MODES:
        raise ValueError(
            f"{name}: images must be uint8 of shape (n, h, w, c) with 1 or 3 channels; "
            f"got {images.dtype} of shape {images.shape}"
        )
    _check_count(name, len(images))

    def batches() -> Iterator[np.ndarray]:
        return (images[i : i + BATCH] for i in range(0, len(images), BATCH))

    shape = (images.shape[1], images.shape[2], images.shape[3])
    return ImageSet(name, len(images), shape, batches, facts)


def of_source(source: ImageArrays | ImageSource) -> ImageSet:
    """A split of a data set, in memory or read as it is wanted.

    Raises:
        ValueError: as `of_array`.
    """
    facts = {"set": source.name}
    if isinstance(source, ImageArrays):
        return of_array(source.images, source.name, facts)
    _check_count(source.name, len(source))

    def batches() -> Iterator[np.ndarray]:
        for i in range(0, len(source), BATCH):
            numbers = range(i, min(i + BATCH, len(source)))
            yield np.stack([source[number]["image"] for number in numbers])

    return ImageSet(source.name, len(source), source.image_shape, batches, facts)


def flipped(images: ImageSet) -> ImageSet:
    """The images, and the mirror image of each."""

    def batches() -> Iterator[np.ndarray]:
        for batch in images.batches():
            yield np.concatenate([batch, batch[:, :, ::-1]])

    facts = {**images.facts, "flip": True}
    return dataclasses.replace(images, num=2 * images.num, batches=batches, facts=facts)


def open_set(path: pathlib.Path | str, num: int | None = None) -> ImageSet:
    """The images of a folder, or of an .npz; the first `num` of them.

    A folder's files are taken in the order of their names, sub-folders included; grey
    ones stay grey only where all are.

    Raises:
        ValueError: if a file is no image, of another size than the first, or the .npz
            holds no uint8 images; it names the file.
        OSError: if there is no such file.
    """
    path = pathlib.Path(os.path.expanduser(path))
    if path.suffix == ".npz":
        return _of_npz(path, num)
    return _of_folder(path, num)


def _of_npz(path: pathlib.Path, num: int | None) -> ImageSet:
    with named_errors(path):
        arrays = read_npz(path)
    name = next((x for x in ARRAYS if x in arrays), None)
    if name is None:
        raise ValueError(
            f"{path} must hold images as {' or '.join(ARRAYS)}; it holds {some(arrays)}"
        )
    images = arrays[name].read()[:num]
    return of_array(images, str(path), {"file": str(path), "array": name})


def _of_folder(folder: pathlib.Path, num: int | None) -> ImageSet:
    files = list_images(folder).files[:num]
    _check_count(str(folder), len(files))
    first = decode(folder / files[0], str(folder / files[0]))
    grey = first.mode == MODES[1]
    if grey:  # one in colours makes a set of colours
        modes = (decode(folder / x, str(folder / x)).mode for x in files)
        grey = all(mode == MODES[1] for mode in modes)
    channels = 1 if grey else 3
    shape = (first.height, first.width, channels)

    def read(name: str) -> np.ndarray:
        file = str(folder / name)
        picture = decode(folder / name, file)
        if picture.size != first.size:
            raise ValueError(
                f"{file}: all images of a set must have one size; got {picture.width}x"
                f"{picture.height} (width x height), and {first.width}x{first.height} "
                f"of {files[0]}"
            )
        return np.asarray(picture.convert(MODES[channels]), np.uint8).reshape(shape)

    def batches() -> Iterator[np.ndarray]:
        for i in range(0, len(files), BATCH):
            yield np.stack([read(name) for name in files[i : i + BATCH]])

    return ImageSet(str(folder), len(files), shape, batches, {"folder": str(folder)})


def _check_count(name: str, count: int) -> None:
    if count < FEWEST:
        raise ValueError(f"{name}: a metric needs {FEWEST} images or more; got {count}")

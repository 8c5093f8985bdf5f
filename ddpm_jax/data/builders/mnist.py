"""MNIST and Fashion-MNIST from their gzipped IDX files."""

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.builders.base import ImageBuilder, png

FILES = {
    "train": ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"],
    "test": ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"],
}


class Mnist(ImageBuilder):
    """70,000 28x28 grey images of handwritten digits; 60,000 of them for training."""

    name = "ddpm_jax_mnist"
    SHAPE = (28, 28, 1)
    LABEL_NAMES = tuple("0123456789")
    DESCRIPTION = "MNIST: 70,000 28x28 grey images of handwritten digits."
    HOMEPAGE = "https://yann.lecun.com/exdb/mnist/"
    URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        names = [name for split in FILES for name in FILES[split]]
        paths = dict(zip(names, self.fetch(dl_manager, self.URL, names), strict=True))
        return {
            split: self._generate_examples(paths[images], paths[labels])
            for split, (images, labels) in FILES.items()
        }

    def _generate_examples(self, images: Path, labels: Path) -> Iterator[Any]:
        pictures, classes = read_idx(images), read_idx(labels)
        if pictures.shape[1:] != (28, 28) or classes.shape != pictures.shape[:1]:
            raise ValueError(
                f"{images}: images must be 28x28, with one label each; "
                f"got shape {pictures.shape} and labels of shape {classes.shape}"
            )
        for index, (picture, label) in enumerate(zip(pictures, classes, strict=True)):
            yield index, {"image": png(picture), "label": int(label)}


class FashionMnist(Mnist):
    """70,000 28x28 grey images of clothing; 60,000 of them for training."""

    name = "ddpm_jax_fashion_mnist"
    LABEL_NAMES = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    DESCRIPTION = "Fashion-MNIST: 70,000 28x28 grey images of clothing."
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
    URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzipped IDX file.

    The file is two zero bytes, the type (8: uint8), the number of dimensions, each
    dimension as a big-endian int32, and the elements.

    Args:
        path: the file.

    Returns:
        uint8, of the shape that the file says.

    Raises:
        ValueError: if the file is no such file, or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as gzip: {error}") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: must be an IDX file of bytes; got {data[:4]!r}")
    start = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data[4:start], ">i4"))
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path}: shape {shape} needs {math.prod(shape)} bytes; "
            f"got {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)

"""CIFAR-10 from its binary archive, which (unlike the Python one) holds no pickles."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.builders.base import ImageBuilder, png

URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes
FILES = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}


class Cifar10(ImageBuilder):
    """60,000 32x32 colour images in 10 classes; 50,000 of them for training."""

    name = "ddpm_jax_cifar10"
    SHAPE = (32, 32, 3)
    LABEL_NAMES = tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    )
    DESCRIPTION = "CIFAR-10: 60,000 32x32 colour images in 10 classes."
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

    def _split_generators(self, dl_manager) -> dict[str, Any]:
        (archive,) = self.fetch(dl_manager, URL, [ARCHIVE])
        return {split: self._generate_examples(archive, split) for split in FILES}

    def _generate_examples(self, archive: Path, split: str) -> Iterator[Any]:
        members = [f"{FOLDER}/{file}" for file in FILES[split]]
        index = 0
        for member, data in _read_members(archive, members):
            if not data or len(data) % RECORD:
                raise ValueError(
                    f"{archive}: {member} must hold records of {RECORD} bytes; "
                    f"got {len(data)} bytes"
                )
            for record in np.frombuffer(data, np.uint8).reshape(-1, RECORD):
                image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                yield index, {"image": png(image), "label": int(record[0])}
                index += 1


def _read_members(archive: Path, members: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in members:
                file = tar.extractfile(member)
                yield member, file.read() if file else b""
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{archive}: cannot read {members}: {error}") from error

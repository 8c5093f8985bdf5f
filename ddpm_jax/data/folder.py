"""A folder of images, with labels from its sub-folders."""

import os
from pathlib import Path

import numpy as np

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.pixels import check_shape, decode, fit
from ddpm_jax.data.sources import Example, read_all

SUFFIXES = tuple(".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())


class FolderSource:
    """The images of a folder, decoded when they are asked for.

    Each sub-folder is a class, in the order of their sorted names, and holds its images
    at any depth; a folder without sub-folders is unlabelled. Images are those files
    whose suffix says so, in sorted order; hidden files and folders are passed over.

    Args:
        path: the folder.
        image_size: the side of every image.
        channels: 1 for grey, 3 for RGB; images are converted.
        resize: whether to crop and scale images of other sizes (see `pixels.fit`).

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder or one of its classes has no images, or if images lie
            both in the folder and in sub-folders. Asked for an image that cannot be
            read or has the wrong size, it names the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int,
        channels: int = 3,
        resize: bool = False,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.image_shape = (image_size, image_size, channels)
        check_shape(self.image_shape)
        self.resize = resize
        self.files, self.labels, self.label_names = _find_images(self.path)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """{"image": (h, w, c) uint8}, and "label" where there are classes."""
        file = self.path / self.files[index]
        image = fit(
            decode(file, str(file)),
            str(file),
            shape=self.image_shape,
            resize=self.resize,
        )
        if self.labels is None:
            return {"image": image}
        return {"image": image, "label": self.labels[index]}


def load_folder(
    path: str | os.PathLike[str],
    *,
    image_size: int,
    channels: int = 3,
    resize: bool = False,
    progress: bool = True,
) -> ImageArrays:
    """All images of a folder, in memory. Arguments and errors as for `FolderSource`."""
    source = FolderSource(path, image_size=image_size, channels=channels, resize=resize)
    return read_all(source, progress=progress)


def _find_images(
    folder: Path,
) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """Paths relative to the folder, their labels, and the names of the labels."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: the image folder does not exist")
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    classes = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    loose = [e.name for e in entries if not e.is_dir() and _is_image(e.name)]
    if classes and loose:
        raise ValueError(
            f"{folder}: images must lie either in the folder or in sub-folders, one "
            f"for each class; got {len(loose)} images (the first is {loose[0]}) beside "
            f"{len(classes)} sub-folders"
        )
    if not classes:
        if not loose:
            raise ValueError(f"{folder}: the folder must hold images; found none")
        return loose, None, ()
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _walk(folder, name)
        if not found:
            raise ValueError(
                f"{folder / name}: every sub-folder is a class and must hold images; "
                "found none"
            )
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, np.int32), tuple(classes)


def _walk(folder: Path, name: str) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder / name):
        folders[:] = [f for f in folders if not f.startswith(".")]
        within = os.path.relpath(parent, folder)
        found += [os.path.join(within, file) for file in files if _is_image(file)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

"""A folder of images, with labels from its sub-folders."""

import os
from pathlib import Path

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.colour import WHITE, Background
from ddpm_jax.data.listing import list_images
from ddpm_jax.data.pixels import check_header, check_shape, decode, fit
from ddpm_jax.data.sources import Example, listed_errors, progress_bar, read_all


class FolderSource:
    """The images of a folder, decoded when they are asked for.

    Each sub-folder is a class and holds its images at any depth; labels count the
    classes in the natural order of their names (1, 2, 10). A folder without sub-folders
    is unlabelled. Images are those files whose suffix says so, in sorted order. Links
    are followed; hidden files and folders, other suffixes and what is no regular file
    are passed over, which `notes` says.

    Args:
        path: the folder; ~ is the user's home.
        image_size: the side of every image.
        channels: 1 for grey, 3 for RGB; images are converted.
        resize: whether to crop and scale images of other sizes (see `pixels.fit`).
        background: what shows where an image is transparent, grey or RGB in 0..255.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such folder.
        PermissionError: if a folder in it must not be listed.
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
        background: Background = WHITE,
    ) -> None:
        self.path = Path(os.path.expanduser(path))
        self.name = str(path)
        self.image_shape = (image_size, image_size, channels)
        check_shape(self.image_shape)
        self.resize = resize
        self.background = background
        self.files, self.labels, self.label_names, self.notes = list_images(self.path)

    def check_files(self) -> None:
        """Opens every file, decoding none: finds what is no image or of another size.

        Raises:
            ValueError: naming all of them (ten, and how many).
        """
        shape = None if self.resize else self.image_shape
        bad: list[str] = []
        bar = progress_bar(f"opening the images of {self.name}", len(self))
        for i in bar:
            try:
                file = self.path / self.files[i]
                check_header(file, str(file), shape=shape)
            except ValueError as error:
                bad.append(str(error))
        if bad:
            raise ValueError(listed_errors(self.name, bad, len(self), len(self)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """{"image": (h, w, c) uint8}, and "label" where there are classes."""
        file = self.path / self.files[index]
        image = fit(
            decode(file, str(file), background=self.background),
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
    background: Background = WHITE,
    progress: bool = True,
) -> ImageArrays:
    """All images of a folder, in memory.

    Images that cannot be used are named together, not one by one.

    Args:
        path: as for `FolderSource`.
        image_size: as for `FolderSource`.
        channels: as for `FolderSource`.
        resize: as for `FolderSource`.
        background: as for `FolderSource`.
        progress: whether to show a bar if it takes a while.

    Returns:
        Images (n, image_size, image_size, channels) uint8, and labels.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: as `FolderSource`.

    Examples:
        >>> import pathlib
        >>> from ddpm_jax.data import load_digits, load_folder
        >>> from ddpm_jax.images import save_png
        >>> digits = load_digits("test")
        >>> for i, image in enumerate(digits.images[:6]):
        ...     folder = pathlib.Path("images", str(digits.labels[i]))
        ...     folder.mkdir(parents=True, exist_ok=True)
        ...     save_png(folder / f"{i}.png", image, enlarge=1)
        >>> found = load_folder("images", image_size=8, channels=1)
        >>> found.images.shape, found.label_names
        ((6, 8, 8, 1), ('1', '3', '5', '7', '9'))
    """
    source = FolderSource(
        path,
        image_size=image_size,
        channels=channels,
        resize=resize,
        background=background,
    )
    return read_all(source, progress=progress)

"""From an encoded picture of any kind to a uint8 image of the shape asked for."""

import os
from typing import IO

import numpy as np
from PIL import Image, ImageOps

MODES = {1: "L", 3: "RGB"}  # Pillow's name for c channels of 8 bits


def check_shape(shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless images of this shape (h, w, c) can be made."""
    if min(shape[:2]) < 1:
        raise ValueError(f"image_size must be at least 1; got {min(shape[:2])}")
    if shape[2] not in MODES:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB); got {shape[2]}")


def decode(file: str | os.PathLike[str] | IO[bytes], what: str) -> Image.Image:
    """The picture in a file, turned upright. `what` names it in an error.

    Raises:
        ValueError: if it cannot be read, or has more than 8 bits a channel, which a
            conversion would clip.
    """
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.load()
    # Pillow's decoders report a bad file by any of these.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what}: cannot be read as an image: {error}") from error
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ValueError(
            f"{what}: images must have 8 bits a channel; got mode {picture.mode}"
        )
    return picture


def fit(
    picture: Image.Image, what: str, *, shape: tuple[int, int, int], resize: bool
) -> np.ndarray:
    """The picture as uint8 of the given shape (h, w, c).

    With `resize`, the largest centred part of the same proportions is scaled, and
    scaling down averages (bicubic, its support widened by the scale), so that nothing
    aliases. Colour is converted as Pillow converts it; transparency is dropped.

    Args:
        what: names the picture in an error.

    Raises:
        ValueError: if the size differs and `resize` is false.
    """
    height, width, channels = shape
    if picture.size != (width, height):
        if not resize:
            raise ValueError(
                f"{what}: images must be {width}x{height} (width x height) unless "
                f"resize is on; got {picture.width}x{picture.height}"
            )
        picture = _crop(picture, width / height)
    picture = picture.convert(MODES[channels])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8).reshape(shape)


def _crop(picture: Image.Image, proportion: float) -> Image.Image:
    width = min(picture.width, round(picture.height * proportion))
    height = min(picture.height, round(picture.width / proportion))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))

"""From an encoded picture of any kind to a uint8 image of the shape asked for."""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ddpm_jax.data.colour import WHITE, Background, opaque_srgb, storage

MODES = {1: "L", 3: "RGB"}  # Pillow's name for c channels of 8 bits

# The formats that are read, with their suffixes: those that hold pixels, and that
# Pillow decodes by itself (for PostScript it would start Ghostscript).
FORMATS = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "GIF": ".gif",
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "PNG": ".png .apng",
    "PPM": ".pbm .pgm .ppm .pnm",
    "QOI": ".qoi",
    "TGA": ".tga",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
}
SUFFIXES = tuple(sorted(" ".join(FORMATS.values()).split()))


def check_shape(shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless images of this shape (h, w, c) can be made."""
    if min(shape[:2]) < 1:
        raise ValueError(f"image_size must be at least 1; got {min(shape[:2])}")
    if shape[2] not in MODES:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB); got {shape[2]}")


def decode(
    file: str | os.PathLike[str] | IO[bytes],
    what: str,
    *,
    background: Background = WHITE,
) -> Image.Image:
    """The picture in a file: the first frame, upright, opaque, 8-bit grey or sRGB.

    Its content, not its name, decides which of `FORMATS` it is in. A colour profile
    that cannot be applied is warned of.

    Args:
        what: names it in an error.
        background: what shows where the picture is transparent, grey or RGB in 0..255.

    Raises:
        ValueError: if it cannot be read, is of none of the formats, has more pixels
            than Pillow takes for a picture, or numbers of unknown range.
    """
    with _opened(file, what) as opened:
        stored = storage(opened)
        picture = ImageOps.exif_transpose(opened)
        picture.load()
        picture, lost = opaque_srgb(picture, stored, background)
    if lost is not None:  # without the file's name, so that it is said only once
        warnings.warn(
            f"a colour profile cannot be applied ({lost}): the colours of pictures "
            "with it are taken to be sRGB",
            stacklevel=2,
        )
    return picture


def check_header(
    file: str | os.PathLike[str], what: str, *, shape: tuple[int, int, int] | None
) -> None:
    """What can be known of a file without decoding it: its format and its size.

    Args:
        shape: (h, w, c) that it must have; None = any.

    Raises:
        ValueError: as `decode` and `fit` would, naming it.
    """
    with _opened(file, what) as opened:
        storage(opened)
        size = opened.size
    if shape is not None and sorted(size) != sorted(shape[:2]):  # it may lie on a side
        _check_size(size, what, shape)


@contextlib.contextmanager
def _opened(
    file: str | os.PathLike[str] | IO[bytes], what: str
) -> Iterator[Image.Image]:
    """The file as a picture whose pixels are not yet read; errors become one line."""
    formats = readable_formats()
    try:
        with Image.open(file, formats=formats) as opened:
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{what}: cannot be read as an image: its content is none of "
            f"{', '.join(formats)}"
        ) from error
    except Exception as error:  # Pillow's decoders report a bad file by many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: cannot be read as an image: {reason}") from error


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def fit(
    picture: Image.Image, what: str, *, shape: tuple[int, int, int], resize: bool
) -> np.ndarray:
    """The picture as uint8 of the given shape (h, w, c).

    With `resize`, the largest centred part of the same proportions is scaled, and
    scaling down averages (bicubic, its support widened by the scale), so that nothing
    aliases. Colour is converted as Pillow converts it.

    Args:
        what: names the picture in an error.

    Raises:
        ValueError: if the size differs and `resize` is false.
    """
    height, width, channels = shape
    if picture.size != (width, height):
        if not resize:
            _check_size(picture.size, what, shape)
        picture = _crop(picture, width / height)
    picture = picture.convert(MODES[channels])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8).reshape(shape)


def _check_size(size: tuple[int, int], what: str, shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    if size != (width, height):
        raise ValueError(
            f"{what}: images must be {width}x{height} (width x height) unless "
            f"resize is on; got {size[0]}x{size[1]}"
        )


def _crop(picture: Image.Image, proportion: float) -> Image.Image:
    width = min(picture.width, round(picture.height * proportion))
    height = min(picture.height, round(picture.width / proportion))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))

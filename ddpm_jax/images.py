"""Samples as pictures: uint8, grids, strips, animations, PNGs that say their origin.

Images are NHWC floats in [-1, 1] until `to_uint8`, and uint8 after it.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from PIL import Image, PngImagePlugin

from ddpm_jax.files import whole_file

GAP = 2
"""Pixels between the images of a grid, before enlarging."""

WHITE = 255
"""What fills them, in 0..255."""


def to_uint8(x: jax.Array | np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] to uint8 in 0..255: clipped, and rounded to the nearest.

    The inverse of x / 127.5 - 1. (Ho's and OpenAI's code truncate instead.)

    Args:
        x: floats of any shape.

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: if they are no floats, e.g. uint8 already.
        FloatingPointError: if a value is not finite; no picture shows that.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.images import to_uint8
        >>> print(to_uint8(np.array([-1.0, 0.0, 0.5, 1.2])))
        [  0 128 191 255]
    """
    if np.asarray(x).dtype.kind in "iu":
        raise ValueError(f"images must be floats in [-1, 1]; got {np.asarray(x).dtype}")
    values = np.asarray(x, np.float32)
    if not np.isfinite(values).all():
        raise FloatingPointError(
            f"images must be finite; {np.sum(~np.isfinite(values))} of their "
            f"{values.size} values are not"
        )
    return np.round(np.clip(values, -1, 1) * 127.5 + 127.5).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images in rows, white between.

    Args:
        images: (n, h, w, c) uint8.
        columns: images in a row; None = nearly square.

    Returns:
        One image, (height, width, c) uint8.

    Raises:
        ValueError: if the images are of another type or shape.

    Examples:
        >>> from ddpm_jax.data import load_digits
        >>> from ddpm_jax.images import grid
        >>> grid(load_digits("test").images[:6], columns=3).shape
        (22, 32, 1)
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            "a grid is made of (n, h, w, c) uint8: see to_uint8; got "
            f"{images.dtype} of shape {images.shape}"
        )
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    canvas = np.full(shape, WHITE, np.uint8)
    for i, image in enumerate(images):
        top = GAP + i // columns * (height + GAP)
        left = GAP + i % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas


def strip(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Batches side by side: one row an image, one column a frame.

    Args:
        frames: batches (n, h, w, c) uint8.

    Returns:
        One image, (height, width, c) uint8.

    Raises:
        ValueError: as `grid`.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.images import strip
        >>> strip([np.zeros((2, 8, 8, 1), np.uint8)] * 5).shape
        (22, 52, 1)
    """
    columns = len(frames)
    rows = np.stack(frames, axis=1)
    return grid(rows.reshape(-1, *rows.shape[2:]), columns)


def save_png(
    path: pathlib.Path | str,
    image: np.ndarray,
    *,
    enlarge: int | None = None,
    origin: Mapping[str, object] | None = None,
) -> None:
    """Writes one picture.

    Args:
        path: the file.
        image: (h, w, c) uint8.
        enlarge: whole factor; None makes small pictures some 500 pixels wide.
        origin: what made the picture (run, seed, sampler), kept as PNG text.

    Raises:
        ValueError: if the image is no picture (`to_picture`).
        OSError: if the file cannot be written.

    Examples:
        >>> from PIL import Image
        >>> from ddpm_jax.data import load_digits
        >>> from ddpm_jax.images import save_png
        >>> save_png("digit.png", load_digits().images[0], origin={"seed": 0})
        >>> picture = Image.open("digit.png")
        >>> picture.size, picture.text
        ((496, 496), {'seed': '0'})
    """
    info = PngImagePlugin.PngInfo()
    for name, value in (origin or {}).items():
        # A name of a folder may be no text: bytes that are not UTF-8.
        info.add_text(name, str(value).encode(errors="backslashreplace").decode())
    with whole_file(path) as file:
        to_picture(image, enlarge).save(file, format="PNG", pnginfo=info)


def save_gif(
    path: pathlib.Path | str,
    frames: Sequence[np.ndarray],
    *,
    enlarge: int | None = None,
    seconds: float = 4.0,
) -> None:
    """Writes frames as an animation that lasts, then rests on the last.

    Args:
        path: the file.
        frames: (h, w, c) uint8 each.
        enlarge: whole factor; None makes small pictures some 500 pixels wide.
        seconds: of the moving part; the last frame stays for another 2 seconds.

    Raises:
        ValueError: if a frame is no picture (`to_picture`).
        OSError: if the file cannot be written.
    """
    pictures = [to_picture(frame, enlarge) for frame in frames]
    each = max(20, round(1000 * seconds / len(pictures)))  # browsers slow down below 20
    with whole_file(path) as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[each] * (len(pictures) - 1) + [2000],
            loop=0,
        )


def to_picture(image: np.ndarray, enlarge: int | None = None) -> Image.Image:
    """One image for Pillow, which a notebook displays.

    Args:
        image: (h, w, c) uint8, c 1 or 3.
        enlarge: whole factor; None makes small pictures some 500 pixels wide.

    Returns:
        A picture of mode L or RGB.

    Raises:
        ValueError: if it is of floats, of another shape, or not grey or RGB.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(
            "a picture must be uint8 of shape (h, w, 1) or (h, w, 3), see to_uint8 and "
            f"grid; got {image.dtype} of shape {image.shape}"
        )
    factor = enlarge or max(1, round(500 / image.shape[1]))
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)

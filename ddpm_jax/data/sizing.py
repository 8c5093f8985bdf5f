"""From a decoded picture of any kind to a square uint8 image of the size asked for."""

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB"}  # Pillow's name for c channels of 8 bits


def check_policy(image_size: int, channels: int) -> None:
    """Raises ValueError unless images of this size and depth can be made."""
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1; got {image_size}")
    if channels not in MODES:
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB); got {channels}")


def to_square(
    picture: Image.Image, what: str, *, image_size: int, channels: int, resize: bool
) -> np.ndarray:
    """The picture as uint8 (image_size, image_size, channels).

    With `resize`, the largest centred square is scaled to size, bicubically and (going
    down) over as many pixels as the scale asks for, so that nothing aliases. Colour is
    converted as Pillow converts it; transparency is dropped.

    Args:
        what: names the picture in an error.

    Raises:
        ValueError: if the size differs and `resize` is false, or if the picture has
            more than 8 bits a channel, which a conversion would clip.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ValueError(
            f"{what}: images must have 8 bits a channel; got mode {picture.mode}"
        )
    width, height = picture.size
    if (width, height) != (image_size, image_size) and not resize:
        raise ValueError(
            f"{what}: images must be {image_size}x{image_size} unless resize is on; "
            f"got {width}x{height} (width x height)"
        )
    picture = picture.convert(MODES[channels])
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    if side != image_size:
        picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8).reshape(image_size, image_size, channels)

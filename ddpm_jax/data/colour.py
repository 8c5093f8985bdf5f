"""From any of Pillow's modes to opaque sRGB, or grey, of 8 bits a channel.

A file that already is that, in mode RGB or L without a colour profile or transparency,
comes out bit for bit as it is stored.
"""

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

Background = int | tuple[int, int, int]  # grey, or red, green, blue; each in 0..255
WHITE = 255
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # more than 8 bits of grey
BLACK_POINT = 0x2000  # LittleCMS's flag; Pillow has had a name for it since 10.3
SAME = 2  # grey levels by which a profile may differ from sRGB and still be sRGB


class Storage(NamedTuple):
    """What a file says of its numbers and Pillow does not act upon."""

    white: int = 65535  # the largest grey of more than 8 bits
    inverted: bool = False  # whether it stands for black (TIFF's WhiteIsZero)
    key: int | bytes | tuple[int, ...] | None = None  # the colour that is transparent


def storage(opened: Image.Image) -> Storage:
    """How an image that is open, and not yet loaded, stores its numbers.

    Raises:
        ValueError: if their range is unknown: 32 bits, or floating point.
    """
    mode, key = opened.mode, opened.info.get("transparency")
    tile = getattr(opened, "tile", None)
    raw = tile[0][3] if tile else None
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    if opened.format == "PNG" and raw in ("L;2", "L;4") and isinstance(key, int):
        key = key * 255 // (2 ** int(raw[-1]) - 1)  # pixels are scaled, the key is not
    if raw == "RGB;16B" and isinstance(key, tuple):
        key = tuple(level >> 8 for level in key)  # as its pixels are
    if mode == "F" or (mode == "I" and opened.format not in ("PNG", "PPM")):
        kind = "floating point" if mode == "F" else "32 bits"
        raise ValueError(
            f"images must have 8 or 16 bits a channel; got {kind}, whose range is "
            "unknown"
        )
    if mode in DEEP and opened.format == "TIFF":
        tags = opened.tag_v2  # type: ignore[attr-defined]
        bits, photometric = tags.get(258, (16,))[0], tags.get(262, 1)
        return Storage(2**bits - 1, photometric == 0, key)
    return Storage(key=key)


def opaque_srgb(
    picture: Image.Image, stored: Storage, background: Background = WHITE
) -> tuple[Image.Image, str | None]:
    """The picture in mode L or RGB, on the background, and what was lost, if anything.

    Transparency is composited (in sRGB, as browsers do) before anything is scaled; a
    colour profile that is not sRGB's is converted from (relative colorimetric, with
    black point compensation), before that.

    Args:
        picture: of any of Pillow's modes.
        stored: how its file stores its numbers.
        background: what shows where nothing is.

    Raises:
        ValueError: if grey levels lie outside what the file says of them.
    """
    profile = picture.info.get("icc_profile")
    colour, alpha = _parts(picture, stored)
    lost = None
    if profile or colour.mode == "LAB":
        colour, lost = _to_srgb(colour, profile or None)
    if colour.mode not in ("L", "RGB"):
        colour = colour.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        grey = isinstance(background, int)
        fill = (background,) * 3 if grey else background
        canvas = Image.new("RGB", colour.size, fill)  # type: ignore[arg-type]
        canvas.paste(colour.convert("RGB"), mask=alpha)
        colour = canvas
    return colour, lost


def _parts(
    picture: Image.Image, stored: Storage
) -> tuple[Image.Image, Image.Image | None]:
    """The colours, in mode L, RGB, CMYK or LAB, and the alpha channel, if any."""
    if picture.mode in DEEP:
        return _eight_bits(picture, stored)
    wanted = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK", "LAB": "LAB"}
    mode = wanted.get(picture.mode, "RGB")
    if stored.key is not None:
        picture.info["transparency"] = stored.key
    if not picture.has_transparency_data:
        return (picture if picture.mode == mode else picture.convert(mode)), None
    whole = picture.convert("RGBA")
    whole.info.pop("transparency", None)
    alpha = whole.getchannel("A")
    # Of equal channels the luma is the channel: grey stays what it was.
    return whole.convert("RGB").convert(mode), alpha


def _eight_bits(
    picture: Image.Image, stored: Storage
) -> tuple[Image.Image, Image.Image | None]:
    """Deep grey scaled to 0..255 and rounded; what is transparent, if it says so."""
    deep = np.asarray(picture).astype(np.int64)
    if deep.min() < 0 or deep.max() > stored.white:
        raise ValueError(
            f"grey levels must lie in 0..{stored.white}; got {deep.min()} to "
            f"{deep.max()}"
        )
    levels = (deep * 255 + stored.white // 2) // stored.white
    if stored.inverted:
        levels = 255 - levels
    alpha = None
    if stored.key is not None:
        alpha = Image.fromarray(np.where(deep == stored.key, 0, 255).astype(np.uint8))
    return Image.fromarray(levels.astype(np.uint8)), alpha


def _to_srgb(
    colour: Image.Image, profile: bytes | None
) -> tuple[Image.Image, str | None]:
    """The colours of a profile (None: CIE Lab) as sRGB; or as they are, and why."""
    conversion = _conversion(profile, colour.mode)
    if conversion.problem is not None or conversion.transform is None:
        return colour, conversion.problem
    if colour.mode != conversion.mode:
        colour = colour.convert(conversion.mode)
    return conversion.transform.apply(colour), None


class _Conversion(NamedTuple):
    mode: str  # that the transform takes
    transform: ImageCms.ImageCmsTransform | None  # None = nothing to convert
    problem: str | None


@functools.lru_cache(maxsize=64)  # many files share few profiles
def _conversion(profile: bytes | None, mode: str) -> _Conversion:
    try:
        if profile is None:
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        takes = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}.get(space, "")
        if mode != takes and (mode, takes) != ("L", "RGB"):
            raise ValueError(f"it is of {space} colours, the pixels of {mode}")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            takes,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            BLACK_POINT,  # type: ignore[arg-type]  # an int does in every version
        )
    # No LittleCMS in this Pillow, or no such profile: Pillow raises many types.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return _Conversion(mode, None, reason)
    same = takes in ("L", "RGB") and _changes_little(transform, takes)
    return _Conversion(takes, None if same else transform, None)


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a lattice of colours comes out as it went in."""
    if mode == "L":
        lattice = np.arange(256, dtype=np.uint8)[np.newaxis]
    else:
        steps = np.linspace(0, 255, 18).astype(np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    into = np.asarray(transform.apply(Image.fromarray(lattice))).astype(int)
    start = lattice if mode == "RGB" else lattice[..., np.newaxis]
    return bool(np.abs(into - start).max() <= SAME)

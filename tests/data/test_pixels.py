"""Odd files, made here: what each shows is what is trained on, or one line says why."""

import io
import struct
import subprocess
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from ddpm_jax.data import load_folder
from ddpm_jax.data.pixels import FORMATS, decode, readable_formats

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 6, 3), np.uint8)
GREY = RNG.integers(0, 256, (8, 6), np.uint8)
DEEP = np.array([[0, 1, 127, 128, 129, 257], [385, 386, 40_000, 65_406, 65_535, 9]])
LEVELS = np.round(DEEP / 257).astype(np.uint8)  # 65535 = 255 * 257
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(picture, format, **options):
    if format not in readable_formats() or format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    file = io.BytesIO()
    picture.save(file, format=format, **options)
    return file.getvalue()


def decoded(data, channels=3, **options):
    picture = decode(io.BytesIO(data), "odd", **options)
    assert picture.mode in ("L", "RGB")
    return np.asarray(picture.convert({1: "L", 3: "RGB"}[channels]))


def png(depth, colour, rows, *chunks):
    """A PNG by hand: bit depth, colour type, rows of bytes, (name, data) chunks."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + check(name + data)

    def check(data):
        return struct.pack(">I", zlib.crc32(data))

    samples = {0: 1, 2: 3, 3: 1}[colour]
    width = len(rows[0]) * 8 // (depth * samples)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(array, bits, photometric=1, sample_format=1, order="<", width=None):
    """A grey TIFF by hand, of `bits` a pixel; the pixels are the array's bytes."""
    tags = [
        *((256, width or array.shape[1]), (257, array.shape[0]), (258, bits), (259, 1)),
        *((262, photometric), (273, 8 + 2 + 12 * 10 + 4), (277, 1)),
        *((278, array.shape[0]), (279, array.nbytes), (339, sample_format)),
    ]
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, x) for tag, x in tags)
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return start + directory + bytes(4) + array.tobytes()


# Plain pictures: old runs go on with the bits that they began with.


@pytest.mark.parametrize("format", ["BMP", "PNG", "TIFF", "TGA", "PPM", "WEBP", "QOI"])
@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["rgb", "grey"])
def test_plain_pictures_keep_every_bit(format, pixels):
    if format in ("QOI", "WEBP") and pixels is GREY:
        pytest.skip("the format has no grey")
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), format, **options)
    np.testing.assert_array_equal(decoded(data, {2: 1, 3: 3}[pixels.ndim]), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "L", "RGB", "RGBA", "LA"])
def test_opaque_pictures_are_converted_as_pillow_does(mode, channels):
    """As before transparency was heeded, for each mode that a file can have."""
    picture = Image.fromarray(RGB).convert(mode)
    data = encoded(picture, "TIFF")
    whole = Image.open(io.BytesIO(data)).convert({1: "L", 3: "RGB"}[channels])
    np.testing.assert_array_equal(decoded(data, channels), np.asarray(whole))


# Transparency: what is under nothing is not seen.


def rgba(hidden):
    pixels = np.empty((2, 4, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[..., 3] = 0
    pixels[:, 1] = (200, 0, 0, 128)
    pixels[:, 2] = (200, 0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("hidden", [(0, 255, 0), (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "TGA", "WEBP", "QOI", "JPEG2000"])
def test_what_is_hidden_shows_the_background(format, hidden):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = encoded(rgba(hidden), format, **options)
    # 200 * 128/255 + 255 * 127/255 = 227.4; 255 * 127/255 = 127
    np.testing.assert_array_equal(
        decoded(data)[0], [[255] * 3, [227, 127, 127], [200, 0, 0], [255] * 3]
    )
    # 200 * 128/255 + 10 * 127/255 = 105.4; 20 * 127/255 = 9.96; 30 * 127/255 = 14.9
    np.testing.assert_array_equal(
        decoded(data, background=(10, 20, 30))[1],
        [[10, 20, 30], [105, 10, 15], [200, 0, 0], [10, 20, 30]],
    )
    assert decoded(data, channels=1, background=40)[0, 0] == 40


def test_transparency_is_seen_before_scaling(tmp_path):
    """Half red, half nothing is pink, whatever lies under nothing."""
    pixels = np.empty((16, 16, 4), np.uint8)
    pixels[:] = (200, 0, 0, 255)
    pixels[np.indices((16, 16)).sum(0) % 2 == 0] = (0, 255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = load_folder(tmp_path, image_size=4, resize=True).images[0].astype(int)
    assert np.abs(image - [227.5, 127.5, 127.5]).max() < 8


def test_grey_with_alpha_stays_grey():
    pixels = np.array([[[50, 255], [50, 0], [50, 51]]], np.uint8)
    data = encoded(Image.fromarray(pixels, "LA"), "PNG")
    want = [[50, 255, 214]]  # 50 * 0.2 + 255 * 0.8
    np.testing.assert_array_equal(decoded(data, channels=1), want)
    np.testing.assert_array_equal(decoded(data)[..., 2], want)


PALETTE = (b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]))


@pytest.mark.parametrize(
    ("data", "want"),
    [
        # Four pixels of a palette, of which the second is half there, the first not.
        (
            png(8, 3, [[0, 1, 2, 3]], PALETTE, (b"tRNS", bytes([0, 128]))),
            [[255, 255, 255], [127, 255, 127], [0, 0, 255], [9, 9, 9]],
        ),
        (
            png(8, 3, [[0, 1, 2, 3]], PALETTE, (b"tRNS", bytes([255, 0]))),
            [[255, 0, 0], [255, 255, 255], [0, 0, 255], [9, 9, 9]],
        ),
        (
            png(8, 0, [[0, 77, 200]], (b"tRNS", b"\0\x4d")),
            [[0] * 3, [255] * 3, [200] * 3],
        ),
        (
            png(8, 2, [[1, 2, 3, 4, 5, 6]], (b"tRNS", bytes([0, 1, 0, 2, 0, 3]))),
            [[255, 255, 255], [4, 5, 6]],
        ),
        # Levels 0, 1, 2, 3 of two bits; level 1 is transparent.
        (
            png(2, 0, [[0b00011011]], (b"tRNS", b"\0\1")),
            [[0] * 3, [255] * 3, [170] * 3, [255] * 3],
        ),
        (
            png(4, 0, [[0x05, 0xAF]], (b"tRNS", b"\0\5")),
            [[0] * 3, [255] * 3, [170] * 3, [255] * 3],
        ),
        (
            png(1, 0, [[0b01011111]], (b"tRNS", b"\0\0")),
            [[255] * 3] * 8,
        ),
        # Sixteen bits: 0x4000 is transparent, 0x4001 is not.
        (
            png(16, 0, [[0x40, 0, 0x40, 1, 0, 0]], (b"tRNS", b"\x40\0")),
            [[255] * 3, [64] * 3, [0] * 3],
        ),
        (
            png(
                16,
                2,
                [[1, 2, 3, 4, 5, 6, 9, 0, 9, 0, 9, 0]],
                (b"tRNS", bytes(range(1, 7))),
            ),
            [[255] * 3, [9] * 3],
        ),
    ],
    ids="palette one-colour grey8 rgb8 grey2 grey4 grey1 grey16 rgb16".split(),
)
def test_a_transparent_colour_is_not_seen(data, want):
    np.testing.assert_array_equal(decoded(data)[0], want)


def test_a_gif_with_a_transparent_colour():
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    data = encoded(picture, "GIF", transparency=0)
    np.testing.assert_array_equal(decoded(data)[0], [[255] * 3, [0, 0, 255]])


# More than eight bits: scaled, not clipped.


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_of_grey_are_scaled(format):
    if format == "PPM":
        data = b"P5 6 2 65535\n" + DEEP.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(DEEP.astype(np.uint16)), format)
    np.testing.assert_array_equal(decoded(data, channels=1), LEVELS)
    np.testing.assert_array_equal(decoded(data)[..., 1], LEVELS)


def test_sixteen_bits_of_either_byte_order():
    data = tiff(DEEP.astype(">u2"), 16, order=">")
    assert Image.open(io.BytesIO(data)).mode == "I;16B"
    np.testing.assert_array_equal(decoded(data, channels=1), LEVELS)


def test_twelve_bits_fill_the_range():
    """0x000 and 0xfff, packed in three bytes; and a PGM that ends at 4095."""
    data = tiff(np.array([[0x00, 0x0F, 0xFF]], np.uint8), 12, width=2)
    np.testing.assert_array_equal(decoded(data, channels=1), [[0, 255]])
    pgm = b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes()
    np.testing.assert_array_equal(decoded(pgm, channels=1), [[0, 128, 255]])


def test_white_may_be_zero():
    data = tiff(DEEP.astype("<u2"), 16, photometric=0)
    np.testing.assert_array_equal(decoded(data, channels=1), 255 - LEVELS)


def test_sixteen_bits_of_colour_keep_their_high_byte():
    data = png(16, 2, [[200, 9, 100, 255, 0, 0]])
    np.testing.assert_array_equal(decoded(data)[0], [[200, 100, 0]])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tiff(np.full((2, 2), 7, "<u4"), 32), "32 bits"),
        (tiff(np.full((2, 2), -7, "<i2"), 16, sample_format=2), "32 bits"),
        (tiff(np.full((2, 2), 0.5, "<f4"), 32, sample_format=3), "floating point"),
    ],
    ids=["int32", "int16", "float"],
)
def test_numbers_of_unknown_range_are_refused(data, what):
    with pytest.raises(ValueError, match=f"odd: .*8 or 16 bits.*got {what}"):
        decoded(data)


# Colour profiles.


def profile(space, *tags):
    """A minimal ICC profile, version 2, for displays."""
    common = [
        (b"wtpt", b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)),
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)),
        (b"cprt", b"text\0\0\0\0x\0"),
    ]
    tags = [*common, *tags]
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytes(4) + b"lcms\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249)
    whole = header.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(x * 65536)) for x in numbers)


def curve(levels):
    data = np.round(np.asarray(levels) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(data)) + data.tobytes()


GAMMA = np.linspace(0, 1, 1024)
LINEAR = np.where(GAMMA <= 0.04045, GAMMA / 12.92, ((GAMMA + 0.055) / 1.055) ** 2.4)
PRIMARIES = {  # of sRGB, adapted to D50 (IEC 61966-2-1, annex F)
    b"r": (0.4360, 0.2225, 0.0139),
    b"g": (0.3851, 0.7169, 0.0971),
    b"b": (0.1431, 0.0606, 0.7141),
}


def primaries(order, curved=LINEAR):
    """sRGB with its primaries in another order: its red is what `order` begins with."""
    for name, of in zip((b"r", b"g", b"b"), order, strict=True):
        yield name + b"XYZ", b"XYZ \0\0\0\0" + fixed(*PRIMARIES[bytes([of])])
        yield name + b"TRC", curve(curved)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_colours_of_another_profile_become_srgb(format):
    """Its red is our green, its green our blue, its blue our red."""
    wanted = profile(b"RGB ", *primaries(b"gbr"))
    options = {"lossless": True} if format == "WEBP" else {}
    flat = Image.new("RGB", (8, 8), (200, 100, 30))
    stored = np.asarray(Image.open(io.BytesIO(encoded(flat, format, **options))))
    data = encoded(flat, format, icc_profile=wanted, **options)
    turned = stored[..., [2, 0, 1]].astype(int)
    np.testing.assert_allclose(decoded(data), turned, atol=1)


NEARLY = profile(b"RGB ", *primaries(b"rgb", LINEAR**1.01))  # by a level, as many are


@pytest.mark.parametrize("icc", [SRGB, NEARLY], ids=["own", "nearly"])
@pytest.mark.parametrize("pixels", [RGB, GREY], ids=["rgb", "grey"])
def test_a_profile_that_is_srgb_changes_no_bit(icc, pixels):
    data = encoded(Image.fromarray(pixels), "PNG", icc_profile=icc)
    np.testing.assert_array_equal(decoded(data, {2: 1, 3: 3}[pixels.ndim]), pixels)


def test_a_gamma_is_not_srgb():
    """2.2 is another curve, by 8 levels in the dark: 20/255 to its 2.2 is sRGB's 12."""
    icc = profile(b"RGB ", *primaries(b"rgb", GAMMA**2.2))
    data = encoded(Image.new("RGB", (2, 2), (20, 20, 20)), "PNG", icc_profile=icc)
    np.testing.assert_allclose(decoded(data), 12, atol=1)


def test_grey_of_another_curve_becomes_srgb():
    """Linear light of 128/255 is sRGB's 188."""
    icc = profile(b"GRAY", (b"kTRC", curve([0, 1])))
    data = encoded(
        Image.fromarray(np.full((2, 2), 128, np.uint8)), "PNG", icc_profile=icc
    )
    np.testing.assert_allclose(decoded(data, channels=1), 188, atol=1)
    alpha = np.full((2, 2, 2), [128, 0], np.uint8)
    data = encoded(Image.fromarray(alpha, "LA"), "PNG", icc_profile=icc)
    np.testing.assert_array_equal(decoded(data, background=77), 77)


def test_a_profile_is_heeded_beside_transparency():
    icc = profile(b"RGB ", *primaries(b"gbr"))
    data = encoded(rgba((0, 255, 0)), "PNG", icc_profile=icc)
    np.testing.assert_allclose(
        decoded(data)[0, [0, 2]], [[255] * 3, [0, 200, 0]], atol=1
    )


def test_lab_is_converted():
    """L* = 100, 0 are white and black; (54.3, 80.8, 69.9) is sRGB's red."""
    lab = np.array([[[255, 0, 0], [0, 0, 0], [138, 81, 70]]], np.uint8)
    data = encoded(Image.fromarray(lab, "LAB"), "TIFF")
    want = [[255] * 3, [0] * 3, [255, 0, 0]]
    np.testing.assert_allclose(decoded(data)[0], want, atol=5)


# A profile tells when it was made: it names no test, or two workers would name two.
@pytest.mark.parametrize(
    "icc",
    [b"no profile", profile(b"CMYK"), SRGB[:200]],
    ids=["none", "of other colours", "cut short"],
)
def test_a_profile_that_cannot_be_applied_is_said(icc):
    data = encoded(Image.fromarray(RGB), "PNG", icc_profile=icc)
    with pytest.warns(UserWarning, match="a colour profile cannot be applied .*sRGB"):
        np.testing.assert_array_equal(decoded(data), RGB)


# The rest of what a file may be.


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_a_moving_picture_the_first_frame_is_read(format):
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(
        frames[0], format, save_all=True, append_images=frames[1:], **options
    )
    np.testing.assert_array_equal(decoded(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("deep", [False, True])
def test_all_orientations_are_turned_upright(format, deep):
    if deep and format == "JPEG":
        pytest.skip("the format has eight bits")
    scene = np.repeat(np.repeat([[0, 80, 160], [240, 40, 120]], 8, 0), 8, 1)
    stored = {  # where the scene's first row and column are, as EXIF numbers it
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.T,
        6: np.rot90(scene),
        7: scene[::-1, ::-1].T,
        8: np.rot90(scene, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = pixels * 257 if deep else pixels
        picture = Image.fromarray(pixels.astype(np.uint16 if deep else np.uint8))
        upright = decoded(encoded(picture, format, exif=exif), channels=1)
        assert upright.shape == scene.shape, orientation
        np.testing.assert_allclose(upright.astype(int), scene, atol=30)


def saved(format):
    picture = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8))
    if format == "JPEG2000":
        return encoded(picture, format, irreversible=False)
    return encoded(picture, format)


def one_line(data):
    """Decodes; what cannot be is refused in one line with its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries grumble about metadata
        try:
            decode(io.BytesIO(data), "odd")
        except ValueError as error:
            assert str(error).startswith("odd: cannot be read as an image: ")
            assert "\n" not in str(error) and not str(error).endswith(": ")
            return False
    return True


@pytest.mark.parametrize("format", [x for x in FORMATS if x != "DIB"])
def test_damaged_files_are_refused_in_one_line(format):
    whole = saved(format)
    assert one_line(whole)
    for cut in (0, 1, 10, len(whole) // 2):
        assert not one_line(whole[:cut]), cut
    rng = np.random.default_rng(1)
    for _ in range(60):
        spoilt = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), 4):
            spoilt[place] = rng.integers(256)
        one_line(bytes(spoilt))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_the_content_decides_among_the_formats_that_are_read(tmp_path, suffix):
    for format in ("PNG", "BMP"):
        (tmp_path / f"a{suffix}").write_bytes(encoded(Image.fromarray(RGB), format))
        np.testing.assert_array_equal(decode(tmp_path / f"a{suffix}", "a"), RGB)


def test_nothing_else_is_opened(tmp_path, monkeypatch):
    """PostScript would start Ghostscript; the other formats are for no one."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a)
    )
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    script = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(
        ValueError, match=r"a\.png: .*its content is none of (AVIF, )?BMP"
    ):
        load_folder(tmp_path, image_size=8)
    assert not started
    assert set(readable_formats()) <= set(FORMATS)
    for format in ("ICO", "PCX", "SGI", "EPS", "PDF"):
        Image.fromarray(RGB).save(file := io.BytesIO(), format=format)
        assert not one_line(file.getvalue())


def test_a_bomb_is_not_unpacked(monkeypatch):
    data = encoded(Image.fromarray(RGB), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"odd: .*48 pixels.*exceeds limit"):
        decoded(data)

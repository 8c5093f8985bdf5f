"""Pictures hold the samples that were drawn."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import images


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256)
    np.testing.assert_array_equal(images.to_uint8(levels / 127.5 - 1), levels)


def test_values_beyond_the_range_are_clipped():
    np.testing.assert_array_equal(images.to_uint8(np.array([-7.0, 7.0])), [0, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_image_in_its_place(channels):
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, 4, channels), np.uint8)
    canvas = images.grid(batch, columns=2)
    assert canvas.shape == (3 * 5 + 2, 2 * 6 + 2, channels)
    np.testing.assert_array_equal(canvas[7:10, 8:12], batch[3])
    assert np.all(canvas[12:15, 8:12] == images.WHITE)  # the sixth place is empty


def test_a_strip_has_a_row_for_each_image_and_a_column_for_each_frame():
    frames = [np.full((2, 3, 3, 1), value, np.uint8) for value in (10, 20, 30)]
    for frame in frames:
        frame[1] += 100
    canvas = images.strip(frames)
    assert canvas.shape == (2 * 5 + 2, 3 * 5 + 2, 1)
    cells = canvas[[[3], [8]], [[3, 8, 13]], 0]
    np.testing.assert_array_equal(cells, [[10, 20, 30], [110, 120, 130]])


def test_png_keeps_the_pixels_and_says_its_origin(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    images.save_png(tmp_path / "a.png", image, enlarge=1, origin={"seed": 3})
    read = Image.open(tmp_path / "a.png")
    assert read.info["seed"] == "3"
    np.testing.assert_array_equal(np.asarray(read), image)


def test_gif_keeps_its_frames(tmp_path):
    frames = [np.full((4, 4, 1), value, np.uint8) for value in (0, 100, 200)]
    images.save_gif(tmp_path / "a.gif", frames)
    assert Image.open(tmp_path / "a.gif").n_frames == 3


def test_what_is_not_finite_is_no_picture():
    with pytest.raises(FloatingPointError, match="1 of their 4 values"):
        images.to_uint8(np.array([0.0, 1.0, np.nan, -1.0]))


def broken(self, file, **options):
    file.write(b"half")
    raise OSError("no space left")


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch, name):
    image = np.zeros((4, 4, 1), np.uint8)

    def save():
        if name == "a.png":
            images.save_png(tmp_path / name, image)
        else:
            images.save_gif(tmp_path / name, [image, image])

    save()
    before = (tmp_path / name).read_bytes()
    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space left"):
        save()
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]

"""A folder of images: what is read, in which order, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import FolderSource, load_folder, relabelled, sources


def write(path, pixels, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **kwargs)


def grey(level, size=4):
    return np.full((size, size), level, np.uint8)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)


def test_sub_folders_are_the_labels_in_sorted_order(tmp_path, pictures):
    places = ["cat/b.png", "cat/a.png", "ant/9.png", "ant/10.png", "dog/deep/x.png"]
    for place, pixels in zip(places, pictures[:5], strict=True):
        write(tmp_path / place, pixels)
    write(tmp_path / ".cache" / "hidden.png", pictures[5])
    write(tmp_path / "cat" / "._a.png", pictures[5])
    (tmp_path / "cat" / "notes.txt").write_text("not an image")

    arrays = load_folder(tmp_path, image_size=4)
    assert arrays.label_names == ("ant", "cat", "dog") and arrays.num_classes == 3
    np.testing.assert_array_equal(arrays.labels, [0, 0, 1, 1, 2])
    np.testing.assert_array_equal(arrays.images, pictures[[3, 2, 1, 0, 4]])


def test_no_sub_folders_means_no_labels(tmp_path, pictures):
    for i in (2, 0, 1):
        write(tmp_path / f"{i}.PNG", pictures[i], format="png")
    arrays = load_folder(str(tmp_path), image_size=4)
    assert arrays.labels is None and arrays.num_classes is None
    np.testing.assert_array_equal(arrays.images, pictures[:3])
    assert set(FolderSource(tmp_path, image_size=4)[0]) == {"image"}


def test_a_source_gives_what_loading_gives(tmp_path, pictures):
    for i, pixels in enumerate(pictures):
        write(tmp_path / f"class{i % 2}" / f"{i}.png", pixels)
    arrays = load_folder(tmp_path, image_size=4)
    source = FolderSource(tmp_path, image_size=4)
    assert len(source) == len(arrays) == 6
    assert source.image_shape == arrays.image_shape == (4, 4, 3)
    for i in (5, 0, 3):
        np.testing.assert_array_equal(source[i]["image"], arrays.images[i])
        assert source[i]["label"] == arrays.labels[i]
        assert source[i]["label"].dtype == np.int32


def test_colour_is_converted(tmp_path):
    write(tmp_path / "a.png", grey(77))
    assert np.all(load_folder(tmp_path, image_size=4, channels=3).images == 77)
    write(tmp_path / "a.png", np.broadcast_to([0, 255, 0], (4, 4, 3)))
    images = load_folder(tmp_path, image_size=4, channels=1).images
    assert images.shape == (1, 4, 4, 1)
    assert np.all(images == round(0.587 * 255)), "green weighs 0.587 (ITU-R 601)"


def test_pictures_are_turned_upright(tmp_path):
    """Orientation 6: the first row is the right-hand side of the scene."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "a.png", [[1, 2], [3, 4]], exif=exif)
    images = load_folder(tmp_path, image_size=2, channels=1).images
    np.testing.assert_array_equal(images[0, :, :, 0], [[3, 1], [4, 2]])


def test_resizing_keeps_the_centre_square(tmp_path):
    """A wide picture loses its sides, a tall one its top and bottom."""
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 200
    write(tmp_path / "wide.png", pixels)
    write(tmp_path / "tall.png", pixels.T)
    images = load_folder(tmp_path, image_size=4, channels=1, resize=True).images
    assert np.all(images == 200)


def test_cropping_without_scaling_keeps_the_pixels(tmp_path, pictures):
    wide = np.concatenate([pictures[0], pictures[1]], axis=1)  # (4, 8, 3)
    write(tmp_path / "a.png", wide)
    images = load_folder(tmp_path, image_size=4, resize=True).images
    np.testing.assert_array_equal(images[0], wide[:, 2:6])


def test_scaling_down_averages(tmp_path):
    """A fine checkerboard becomes grey; picking pixels would leave black or white."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    write(tmp_path / "a.png", board)
    images = load_folder(tmp_path, image_size=8, channels=1, resize=True).images
    assert np.all(np.abs(images.astype(int) - 127.5) < 8)


def test_resize_leaves_pictures_of_the_right_size_alone(tmp_path, pictures):
    write(tmp_path / "a.png", pictures[0])
    images = load_folder(tmp_path, image_size=4, resize=True).images
    np.testing.assert_array_equal(images[0], pictures[0])


@pytest.mark.parametrize("size", [(4, 5), (5, 4), (8, 8)])
def test_an_odd_size_is_an_error_that_names_the_file(tmp_path, size):
    write(tmp_path / "x" / "a.png", grey(0))
    write(tmp_path / "x" / "odd.png", np.zeros(size))
    height, width = size
    with pytest.raises(ValueError, match=rf"odd\.png.*4x4.*got {width}x{height}"):
        load_folder(tmp_path, image_size=4)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_an_unreadable_image_is_named(tmp_path, damage):
    write(tmp_path / "a.png", grey(0))
    bad = tmp_path / "bad.png"
    write(bad, np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    whole = bad.read_bytes()
    contents = {"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}
    bad.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"bad\.png: cannot be read") as error:
        load_folder(tmp_path, image_size=4, resize=True)
    assert "\n" not in str(error.value)


def test_all_bad_images_are_named_together(tmp_path):
    """Ten of them and how many, in order; a good one among them changes nothing."""
    for i in range(14):
        write(tmp_path / f"{i:02}.png", grey(0, size=5 if i % 7 else 4))
    with pytest.raises(ValueError, match=r": 12 of 14 images cannot be used") as error:
        load_folder(tmp_path, image_size=4)
    line = str(error.value)
    named = [i for i in range(14) if f"{i:02}.png" in line]
    assert named == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert line.endswith("; and 2 more") and "\n" not in line


def test_headers_alone_tell_much(tmp_path, pictures):
    """What a streamed run asks before its first step; no pixel is decoded."""
    write(tmp_path / "a" / "good.png", pictures[0])
    write(tmp_path / "a" / "wide.png", np.zeros((4, 5)))
    (tmp_path / "a" / "zero.png").write_bytes(b"")
    whole = (tmp_path / "a" / "good.png").read_bytes()
    (tmp_path / "a" / "half.png").write_bytes(whole[: len(whole) // 2])

    def check(size, **policy):
        source = FolderSource(tmp_path, image_size=size, **policy)
        with pytest.raises(ValueError) as error:
            sources.check_files(relabelled(source, ("a",)))
        return str(error.value)

    assert "zero.png" in check(4, resize=True) and "wide" not in check(4, resize=True)
    assert "2 of 4 images cannot be used" in check(4)
    for bad in ("wide.png: images must be 4x4 ", "got 5x4", "zero.png: "):
        assert bad in check(4)
    FolderSource(tmp_path / "a", image_size=4)  # nothing is opened before
    (tmp_path / "a" / "zero.png").unlink()
    sources.check_files(FolderSource(tmp_path, image_size=4, resize=True))


def test_hopeless_folders_are_not_read_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "HOPELESS", 3)
    for i in range(9):
        write(tmp_path / f"{i}.png", grey(0, size=5))
    with pytest.raises(ValueError, match="3 of the first 3 images cannot be used"):
        load_folder(tmp_path, image_size=4)


def test_a_home_is_found(tmp_path, monkeypatch):
    write(tmp_path / "mine" / "a.png", grey(7))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_folder("~/mine", image_size=4).name == "~/mine"


def test_a_stream_shows_the_same_background(tmp_path):
    """Read one by one, as a stream does, or at once: one way of decoding."""
    clear = np.zeros((4, 4, 4), np.uint8)
    write(tmp_path / "a.png", clear)
    for background, want in ((255, [255] * 3), ((1, 2, 3), [1, 2, 3])):
        policy = {"image_size": 4, "background": background}
        whole = load_folder(tmp_path, **policy).images[0]
        one = FolderSource(tmp_path, **policy)[0]["image"]
        np.testing.assert_array_equal(whole, one)
        np.testing.assert_array_equal(one[0, 0], want)


def test_missing_empty_and_mixed_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: the image folder"):
        load_folder(tmp_path / "nowhere", image_size=4)
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match="must hold images; found none") as error:
        load_folder(tmp_path, image_size=4)
    for said in (".jfif", ".png", "1 .txt (notes.txt)"):  # what is read; what is there
        assert said in str(error.value)
    with pytest.raises(NotADirectoryError, match=r"notes\.txt: must be a folder"):
        load_folder(tmp_path / "notes.txt", image_size=4)
    write(tmp_path / "cat" / "a.png", grey(0))
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="dog: every sub-folder is a class"):
        load_folder(tmp_path, image_size=4)
    write(tmp_path / "loose.png", grey(0))
    with pytest.raises(ValueError, match=r"loose\.png.*beside 2 sub-folders"):
        load_folder(tmp_path, image_size=4)


@pytest.mark.parametrize("policy", [dict(image_size=0), dict(image_size=4, channels=2)])
def test_impossible_images_are_refused(tmp_path, policy):
    write(tmp_path / "a.png", grey(0))
    with pytest.raises(ValueError, match="must be"):
        load_folder(tmp_path, **policy)

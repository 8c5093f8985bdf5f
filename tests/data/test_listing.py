"""What of a folder is found, and that nothing is left out without a word."""

import os
import socket

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import FolderSource, load_folder
from ddpm_jax.data.listing import list_images


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 7).save(path, format="PNG")


def test_every_suffix_that_is_read(tmp_path):
    names = "a.jfif b.JPE c.avif d.jp2 e.tga f.pnm g.apng h.Png".split()
    write(*(tmp_path / name for name in names))
    assert list_images(tmp_path).files == names
    assert list_images(tmp_path).notes == ()
    assert len(load_folder(tmp_path, image_size=4)) == 8


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    write(tmp_path / "cat/a.png", tmp_path / "dog/a.png")
    for name in ("cat/b.heic", "cat/c.HEIC", "notes.txt", "dog/README", "dog/.hidden"):
        (tmp_path / name).write_text("")
    (note,) = load_folder(tmp_path, image_size=4).notes
    assert note.startswith(
        "passed over, with the first of each: 2 .heic (cat/b.heic), "
    )
    for said in ("1 .txt (notes.txt)", "1 without a suffix (dog/README)"):
        assert said in note
    assert "1 hidden (dog/.hidden)" in note


def test_linked_folders_are_followed(tmp_path):
    write(
        *(tmp_path / f"elsewhere/{i}.png" for i in range(3)), tmp_path / "in/cat/a.png"
    )
    (tmp_path / "in/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/dog").symlink_to(tmp_path / "elsewhere")
    found = list_images(tmp_path / "in")
    inside = ["cat/a.png", *(f"cat/more/{i}.png" for i in range(3))]
    assert found.files == [*inside, *(f"dog/{i}.png" for i in range(3))]
    assert list(found.labels) == [0] * 4 + [1] * 3
    assert found.notes == ()


def test_links_that_lead_back_end(tmp_path):
    """No image twice in a class, no walk without end; and it is said."""
    write(tmp_path / "cat/a.png", tmp_path / "cat/deep/b.png")
    (tmp_path / "cat/deep/up").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/deep/root").symlink_to(tmp_path)
    (tmp_path / "cat/itself").symlink_to("itself")
    found = list_images(tmp_path)
    assert found.files == ["cat/a.png", "cat/deep/b.png"]
    assert "2 read already (cat/deep/root)" in found.notes[0]
    assert "1 dead link (cat/itself)" in found.notes[0]


def test_a_linked_image_that_is_gone_is_named(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"b\.png: cannot be read"):
        load_folder(tmp_path, image_size=4)


def test_a_folder_that_must_not_be_listed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "cat/a.png", tmp_path / "cat/locked/b.png")
    scandir = os.scandir

    def refuse(path):  # as for a user who is not root
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"cat/locked: the folder must be readab"):
        FolderSource(tmp_path, image_size=4)


def test_pipes_sockets_and_devices_are_not_opened(tmp_path):
    """Opening a pipe that nobody writes to would wait for ever."""
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "d.png"))
    arrays = load_folder(tmp_path, image_size=4)
    assert len(arrays) == 1
    assert "3 no regular file (b.png)" in arrays.notes[0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train", "test", "val"), True),
        (("Train", "valid"), True),
        (("train",), True),
        (("train", "car"), False),
        (("cat", "dog"), False),
    ],
)
def test_classes_that_look_like_splits_are_said(tmp_path, names, said):
    write(*(tmp_path / name / "a.png" for name in names))
    notes = list_images(tmp_path).notes
    assert len(notes) == said
    if said:
        assert "look like splits and are read as classes" in notes[0]
        assert "\n" not in notes[0]


def test_images_keep_their_order_whatever_their_labels(tmp_path):
    """Which image is the i-th decides the batches: an old run goes on with its own."""
    write(*(tmp_path / name / "a.png" for name in ("1", "2", "10")))
    found = list_images(tmp_path)
    assert found.files == ["1/a.png", "10/a.png", "2/a.png"]
    np.testing.assert_array_equal(found.labels, [0, 2, 1])
    assert found.label_names == ("1", "2", "10")

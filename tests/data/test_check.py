"""`python -m ddpm_jax.data check`: what a folder holds, before a run finds out."""

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.__main__ import main


def write(path, size=4, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), 9, np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for name in ("1", "2", "10"):
        for i in range(2):
            write(tmp_path / name / f"{i}.png")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_a_good_folder(folder, capsys):
    main(["check", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "6 images, 3 classes",
        *(f"  label {i}: {name}, 2 images" for i, name in enumerate(("1", "2", "10"))),
        "passed over, with the first of each: 1 .txt (notes.txt)",
        "sizes: 6 of 4x4",
        "all 6 images can be used",
    ]


def test_every_bad_image_is_printed(folder, capsys):
    for i in range(20):
        (folder / "1" / f"bad{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r": 20 of 26 images cannot be used$"):
        main(["check", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    bad = [line for line in lines if "cannot be read as an image" in line]
    assert len(bad) == 20 and all(f"bad{i:02}" in x for i, x in enumerate(bad))


def test_the_size_of_a_run(folder, capsys):
    write(folder / "2" / "large.png", size=8)
    with pytest.raises(ValueError, match="1 of 7 images cannot be used"):
        main(["check", str(folder), "--image-size", "4"])
    assert "large.png: images must be 4x4" in capsys.readouterr().out
    main(["check", str(folder), "--image-size", "4", "--resize"])
    assert "sizes: 6 of 4x4, 1 of 8x8" in capsys.readouterr().out
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        main(["check", str(folder), "--image-size", "0"])


def test_what_is_lost_is_counted(folder, capsys):
    for i in range(3):
        write(folder / "2" / f"odd{i}.png", icc_profile=b"no profile")
    main(["check", str(folder)])
    out = capsys.readouterr().out
    assert "3 times: a colour profile cannot be applied" in out

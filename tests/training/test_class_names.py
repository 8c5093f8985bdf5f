"""What a label means is kept with a run: by name, from its first part to its last."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from PIL import Image
from toy import Toy, toy_config

from ddpm_jax import build, loading
from ddpm_jax.config import DataConfig, from_dict
from ddpm_jax.data import FolderSource
from ddpm_jax.training import checkpoints, feed, loop

LEVELS = {"1": 10, "2": 20, "10": 100}  # the grey of every image of a class


def make_folder(path, levels=LEVELS):
    for name, level in levels.items():
        for i in range(3):
            place = path / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), level).save(place)
    return path


def tiny(folder, steps, **data):
    """A toy's run, on a folder."""
    data = {"source": "folder", "path": str(folder), "num_classes": 3, **data}
    whole = toy_config(size=8, classes=3)
    return dataclasses.replace(
        whole,
        data=dataclasses.replace(whole.data, **data),
        train=dataclasses.replace(whole.train, num_steps=steps, checkpoint_every=1),
    )


def run(config, workdir):
    return loop.run(config, workdir, network=Toy(classes=3))


def stored_data(workdir, step):
    with checkpoints.open_checkpoints(workdir / "checkpoints", read_only=True) as m:
        return from_dict(checkpoints.restore_config(m, step)).data


def names_of_levels(images):
    """What each label is called, going by the grey of its images."""
    greys = {level: name for name, level in LEVELS.items()}
    return {
        images.label_names[label]: greys[int(image.mean())]
        for label, image in zip(images.labels, images.images, strict=True)
    }


def test_a_run_keeps_its_names_and_refuses_others(tmp_path, capsys):
    folder, workdir = make_folder(tmp_path / "images"), tmp_path / "run"
    run(tiny(folder, 1), workdir)
    assert "3 classes (1, 2, 10)" in capsys.readouterr().out
    assert stored_data(workdir, 1).class_names == ("1", "2", "10")

    model = loading.load(workdir, network=Toy(classes=3))
    key = jax.random.key(0)
    by_name = model.sample(key, 3, steps=2, label=["10", "1", "2"])
    by_number = model.sample(key, 3, steps=2, label=[2, 0, 1])
    np.testing.assert_array_equal(by_name, by_number)
    assert "3 classes (1, 2, 10)" in repr(model)
    for label in ("3", "0", "cat", ["1", "cat"]):  # 0 is no class beside 1, 2 and 10
        wrong = label if isinstance(label, str) else label[-1]
        line = re.escape(f"a label must be one of 1, 2, 10; got {wrong!r}")
        with pytest.raises(ValueError, match=line):
            model.sample(key, 2, steps=2, label=label)

    (folder / "2").rename(folder / "two")
    before = {x: x.read_bytes() for x in workdir.rglob("*") if x.is_file()}
    line = r"must be 1, 2, 10; got 1, 10, two \(missing: 2; new: two\)"
    with pytest.raises(ValueError, match=line):
        run(tiny(folder, 2), workdir)
    kept = {x: x.read_bytes() for x in before if "tensorboard" not in x.parts}
    assert kept == {x: before[x] for x in kept}


def test_bad_files_end_a_streamed_run_before_it_begins(tmp_path):
    folder = make_folder(tmp_path / "images")
    for name in ("a.png", "b.png"):
        (folder / "2" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 11 images cannot.*2/a\.png.*2/b\.png"):
        run(tiny(folder, 1, resident=False), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_old_run_goes_on_with_its_own_order(tmp_path, monkeypatch, capsys):
    """Before names were kept, labels counted the folders as text: 1, 10, 2."""
    folder, workdir = make_folder(tmp_path / "images"), tmp_path / "run"
    to_dict = loop.to_dict

    def without_names(config):
        values = to_dict(config)
        del values["data"]["class_names"], values["data"]["background"]
        return values

    with monkeypatch.context() as patch:
        patch.setattr(loop, "to_dict", without_names)
        run(tiny(folder, 1, class_names=("1", "10", "2")), workdir)
    capsys.readouterr()
    images = build.load_images(stored_data(workdir, 1), "train")  # as evaluation does
    assert images.label_names == ("1", "10", "2")

    with pytest.raises(
        ValueError, match="must be those of the run, 1, 10, 2; got 1, 2"
    ):
        run(tiny(folder, 2, class_names=("1", "2", "10")), workdir)
    run(tiny(folder, 2), workdir)
    said = "labels keep the run's own order: 1, 10, 2\n"
    assert said in capsys.readouterr().out
    assert stored_data(workdir, 2).class_names == ("1", "10", "2")


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    ("before", "want"),
    [
        (None, ("1", "2", "10")),
        (("1", "10", "2"), ("1", "10", "2")),
        (("10", "2", "1"), ("10", "2", "1")),
    ],
)
def test_labels_follow_the_names_of_the_run(tmp_path, resident, before, want):
    config = DataConfig(
        source="folder",
        path=str(make_folder(tmp_path)),
        num_classes=3,
        resident=resident,
        image_size=8,
    )
    source = feed.read_source(config, build.read_images)
    old = before and dataclasses.replace(config, class_names=before)
    names = feed.kept_class_names(config, source, old)
    assert names == want
    named = dataclasses.replace(config, class_names=names)
    images = build.load_images(named, "train")
    assert images.label_names == want
    assert names_of_levels(images) == {name: name for name in want}


def test_the_names_of_a_set_of_its_own_order_are_kept():
    config = DataConfig(num_classes=10)
    digits = build.load_images(config, "train")
    assert feed.kept_class_names(config, digits, None) == tuple("0123456789")
    old = feed.kept_class_names(config, digits, config)  # had no names
    assert old == tuple("0123456789")
    unlabelled = dataclasses.replace(config, num_classes=None)
    assert feed.kept_class_names(unlabelled, digits, None) is None


def test_the_summary_says_what_the_folder_does(tmp_path):
    make_folder(tmp_path, {"train": 1, "test": 2})
    (tmp_path / "notes.txt").write_text("")
    config = DataConfig(source="folder", path=str(tmp_path), num_classes=2)
    source = FolderSource(tmp_path, image_size=8, channels=1)
    first, *notes = feed.describe(config, source).split("\n")
    assert "6 images 8x8x1, 2 classes (test, train), streamed" in first
    assert "look like splits" in notes[0] and "1 .txt (notes.txt)" in notes[1]

"""The classifier that stands for Inception where images are small."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, load_digits
from ddpm_jax.evaluation.classifier import __main__ as command
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import collect, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.moments import covariance, moments
from ddpm_jax.evaluation.neighbours import density_coverage, precision_recall


@pytest.fixture(scope="module")
def shipped():
    return classifier.find(DataConfig())[0]


@pytest.fixture(scope="module")
def features(shipped):
    def of(images):
        return collect(extract(shipped, images, taps=["features"]))["features"]

    return of


def distance(a, b):
    ours, theirs = moments(a), moments(b)
    return frechet_distance(
        ours.mean, covariance(ours), theirs.mean, covariance(theirs)
    )


def blurred(images):
    """Each pixel the mean of the 3 x 3 around it."""
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(images.astype(float), edges, mode="edge")
    moved = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return np.mean(moved, axis=0).astype(np.uint8)


def test_the_shipped_one_tells_digits_it_was_not_trained_on(shipped):
    test = load_digits("test")
    logits = collect(extract(shipped, test.images, taps=["logits"]))["logits"]
    found = np.mean(logits.argmax(-1) == test.labels)
    assert found > 0.95
    _, facts = classifier.find(DataConfig())
    np.testing.assert_allclose(facts.accuracy, found, atol=0.005)
    assert (facts.data, facts.shape, facts.classes) == ("digits", (8, 8, 1), 10)


def test_its_features_have_unit_size(features):
    train = features(load_digits("train").images)
    np.testing.assert_allclose(np.mean(train.astype(np.float64) ** 2), 1, rtol=1e-3)


def test_what_is_worse_is_judged_worse(features):
    """Held-out digits, blurred ones, few of them repeated, and a class that is gone."""
    data = load_digits("train")
    halves = data.images[::2], data.images[1::2]
    a, b = features(halves[0]), features(halves[1])
    soft, some = features(blurred(halves[1])), np.tile(b[:30], (len(b) // 30, 1))
    without = b[data.labels[1::2] != 3]
    yardstick = distance(b, a)
    assert distance(soft, a) > 20 * yardstick
    assert distance(some, a) > 5 * yardstick
    assert distance(without, a) > 2 * yardstick
    precision, recall = precision_recall(b, a)
    fewer = precision_recall(without, a)
    assert fewer.precision > precision - 0.03 and fewer.recall < recall - 0.03
    repeated = precision_recall(some, a)
    assert repeated.precision > precision - 0.1  # it does not see the repetition
    assert repeated.recall < recall / 2
    assert density_coverage(some, a).coverage < density_coverage(b, a).coverage / 3
    assert precision_recall(soft, a).precision < precision - 0.3


def test_the_command_trains_and_keeps_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    data = DataConfig(num_classes=10)
    path = command.main(command.Options(data=data, num_steps=150))
    assert path == tmp_path / "classifiers" / "digits.npz"
    network, facts = classifier.load(path)
    assert facts.accuracy > 0.8
    train = collect(extract(network, load_digits("train").images))["features"]
    np.testing.assert_allclose(np.mean(train.astype(np.float64) ** 2), 1, rtol=1e-3)
    told = f"{facts.accuracy:.2%} of 299 held-out images told"
    assert told in capsys.readouterr().out
    images = load_digits("test").images
    again, _ = classifier.load(path)
    a, b = (collect(extract(x, images)) for x in (network, again))
    np.testing.assert_array_equal(a["features"], b["features"])
    with pytest.raises(ValueError, match="takes images of 8x8x1; got 8x9x1"):
        list(extract(network, np.zeros((2, 8, 9, 1), np.uint8)))


def test_a_set_without_a_test_split_keeps_every_tenth_image(monkeypatch):
    arrays = ImageArrays(
        images=np.zeros((25, 8, 8, 1), np.uint8),
        labels=np.arange(25, dtype=np.int32) % 2,
        label_names=("a", "b"),
    )
    monkeypatch.setattr(command.build, "load_images", lambda *_: arrays)
    train, test = command.splits(DataConfig(test_split="train", num_classes=2))
    assert (len(train), len(test)) == (23, 2)
    unlabelled = dataclasses.replace(arrays, labels=None, label_names=())
    monkeypatch.setattr(command.build, "load_images", lambda *_: unlabelled)
    with pytest.raises(ValueError, match="learns from labels; images has none"):
        command.splits(DataConfig())
    with pytest.raises(ValueError, match="learns from labels; images has none"):
        classifier.train(jax.random.key(0), unlabelled)


def test_what_is_no_classifier_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no classifier of fashion_mnist yet"):
        classifier.find(DataConfig(source="tfds", name="fashion_mnist"))
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match="no classifier's file: it lacks facts"):
        classifier.load(path)
    facts = {"data": "x", "shape": [8, 8, 1], "classes": 3, "accuracy": 1, "scale": 1}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(path, facts=text, kernel=np.zeros(3))
    with pytest.raises(ValueError, match="is no classifier's file: other arrays"):
        classifier.load(path)


def test_sets_are_named_after_their_source():
    assert classifier.data_name(DataConfig()) == "digits"
    tfds = DataConfig(source="tfds", name="fashion_mnist", image_size=28)
    assert classifier.data_name(tfds) == "fashion_mnist"
    folder = DataConfig(source="folder", path="somewhere/cats/")
    assert classifier.data_name(folder) == "cats"
    others = dataclasses.replace(folder, path="elsewhere/cats")
    assert classifier.kept_at(folder) != classifier.kept_at(others)
    again = dataclasses.replace(folder, path="somewhere/../somewhere/cats")
    assert classifier.kept_at(folder) == classifier.kept_at(again)

"""The distance of samples to training images while a run goes on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import toy_model

from ddpm_jax.command import parse
from ddpm_jax.config import DataConfig, EvaluationConfig
from ddpm_jax.data import load_digits
from ddpm_jax.evaluation import distance
from ddpm_jax.evaluation.classifier import __main__ as classifier_command
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.distance import Distance, find_compared
from ddpm_jax.evaluation.features import collect, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.moments import Moments, covariance, merge, moments
from ddpm_jax.images import to_uint8

DIGITS = DataConfig(num_classes=10)


def model_of(samples=21, **fields):
    """A toy of the digits, and so many samples of it to be measured."""
    model = toy_model(size=8, classes=10)
    evaluation = EvaluationConfig(every=1, samples=samples, **fields)
    config = dataclasses.replace(model.config, evaluation=evaluation)
    return dataclasses.replace(model, config=config)


def measured(model, source=None, batch_size=8):
    source = load_digits("train") if source is None else source
    compared = find_compared(DIGITS)
    return Distance(compared, model.config, source, batch_size=batch_size)(model)


def features(images):
    network = classifier.find(DataConfig())[0]
    return collect(extract(network, images, taps=["features"]))["features"]


def between(samples, reference):
    """With covariances of n - 1, in NumPy."""
    ours, theirs = features(samples), features(reference)
    return frechet_distance(
        ours.mean(0),
        np.cov(ours.astype(float).T),
        theirs.mean(0),
        np.cov(theirs.astype(float).T),
    )


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({}, {"sampler": "ddpm", "steps": 3}),  # as the grids
        ({"sampler": "ddim"}, {"sampler": "ddim", "steps": 3}),
        ({"steps": 5}, {"sampler": "ddpm", "steps": 5}),
        ({"sampler": "ddim", "steps": 2}, {"sampler": "ddim", "steps": 2}),
    ],
)
def test_it_is_that_of_the_same_images_by_hand(fields, how):
    model = model_of(**fields)
    samples = model.sample(0, 21, label=np.arange(21) % 10, **how)
    expected = between(to_uint8(samples), load_digits("train").images)
    assert measured(model) == pytest.approx(expected, rel=1e-4)


def test_it_does_not_depend_on_batches_and_sees_the_weights_and_the_number():
    model = model_of()
    whole = measured(model)
    for size in (16, 32):
        assert measured(model, batch_size=size) == pytest.approx(whole, rel=1e-4)
    assert measured(model) == whole  # the noise is always the same
    moved = jax.tree.map(lambda x: x + 0.2, model.params)
    other = dataclasses.replace(model, params=moved)
    assert abs(measured(other) - whole) > 0.01 * whole
    assert abs(measured(model_of(samples=9)) - whole) > 0.01 * whole


def test_images_of_a_stream_are_the_same_reference():
    held = load_digits("train")

    class Stream:
        def __len__(self):
            return len(held)

        def __getitem__(self, index):
            return held[index]

    assert measured(model_of(), Stream()) == measured(model_of(), held)


def test_a_sample_that_is_not_finite_is_no_number_and_no_error():
    model = model_of()
    broken = jax.tree.map(lambda x: jnp.full_like(x, np.nan), model.params)
    assert np.isnan(measured(dataclasses.replace(model, params=broken)))


def test_processes_share_the_samples_and_the_training_images(monkeypatch):
    """Three of them, one after the other: all moments are pooled, none twice."""
    model, shares = model_of(samples=20), []
    whole = measured(model)

    def pool(own):
        shares[-1].append(own)
        return Moments(2, np.zeros(64), np.eye(64))

    with monkeypatch.context() as patch:
        patch.setattr(distance, "pooled", pool)
        patch.setattr(jax, "process_count", lambda: 3)
        for process in range(3):
            patch.setattr(jax, "process_index", lambda process=process: process)
            shares.append([])
            measured(model)
    totals = []
    for parts in zip(*shares, strict=True):
        assert sum(part.count for part in parts) in (20, 1498)
        total = functools.reduce(merge, parts)
        totals.append((total.mean, covariance(total)))
    reference, samples = totals
    assert frechet_distance(*samples, *reference) == pytest.approx(whole, rel=1e-4)
    assert [own[1].count for own in shares] == [8, 8, 4]


def test_a_process_without_samples_brings_none(monkeypatch):
    counts = []

    def pool(own):
        counts.append(own.count)
        return moments(np.eye(64))

    monkeypatch.setattr(distance, "pooled", pool)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    measured(model_of(samples=8))
    assert counts == [749, 0]


def test_it_is_named_after_what_compares(monkeypatch, tmp_path):
    assert find_compared(DIGITS).name == "digits-FD"
    loaded = []

    def load(protocol, path, data):
        loaded.append((protocol.name, path))
        return classifier.find(DataConfig())[0], "FID"

    monkeypatch.setattr(distance.networks, "load", load)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    colour = DataConfig(source="tfds", name="cifar10", image_size=32, channels=3)
    with pytest.raises(FileNotFoundError, match=r"no .*6726825d\.pth; put https://"):
        find_compared(colour)
    assert loaded == []  # which would have downloaded it
    weights = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    weights.touch()
    assert find_compared(colour).name == "FID"
    assert loaded == [("openai", weights)]


def test_where_there_is_no_classifier_the_command_that_makes_it_is_named(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    data = DataConfig(
        source="tfds", name="fashion_mnist", image_size=28, num_classes=10, resize=True
    )
    with pytest.raises(FileNotFoundError) as caught:
        find_compared(data)
    line = str(caught.value)
    command = line.partition("python -m ddpm_jax.evaluation.classifier ")[2].split()
    assert "\n" not in line and command
    assert parse(classifier_command.Options, args=command).data == data
    with pytest.raises(ValueError, match="images that Python gives have none"):
        find_compared(DataConfig(source="given"))


def test_images_that_are_not_the_classifiers_are_refused_before_the_run():
    model = model_of()
    small = load_digits("train")
    small = dataclasses.replace(small, images=small.images[:, :4, :4])
    with pytest.raises(ValueError, match="takes images of 8x8x1; got 4x4x1"):
        measured(model, small)

"""The command: its figures by hand, its record, its errors, a kill in between."""

import dataclasses
import json
import types
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from toy import toy_model

from ddpm_jax import drawing
from ddpm_jax.config import DataConfig
from ddpm_jax.data import load_digits
from ddpm_jax.evaluation import __main__ as command
from ddpm_jax.evaluation import inception, report
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import FeatureNetwork, collect, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.measure import Value
from ddpm_jax.evaluation.moments import covariance, moments
from ddpm_jax.evaluation.neighbours import memorisation, nearest_distances
from ddpm_jax.evaluation.protocols import PROTOCOLS, round_down
from ddpm_jax.images import to_uint8

HOW = {"size": 8, "classes": 10, "predict": "v"}


@pytest.fixture
def model(monkeypatch):
    """Toy models, "ema" and "raw", in place of a run's."""
    models = {name: toy_model(i, **HOW) for i, name in enumerate(("ema", "raw"))}

    def load(path, *, step, weights, agree):
        return dataclasses.replace(models[weights], step=step or 7)

    monkeypatch.setattr(command.loading, "load", load)
    return models


def evaluate(workdir, *, draw=(), **options):
    draw = command.Draw(**{"num": 60, "batch_size": 32, **dict(draw)})
    return command.main(command.Options(workdir=workdir, draw=draw, **options))


def record(folder):
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def features(images):
    network, _ = classifier.find(DataConfig())
    return collect(extract(network, images, taps=["features"]))["features"]


def distance(images, real):
    ours, theirs = moments(features(images)), moments(features(real))
    return frechet_distance(
        ours.mean, covariance(ours), theirs.mean, covariance(theirs)
    )


def pixels(images):
    return images.reshape(len(images), -1) / 127.5 - 1


def test_the_figures_are_those_of_the_samples_that_python_draws(model, tmp_path):
    how = {"sampler": "ddim", "steps": 3, "guidance": 1.5, "seed": 4}
    draw = {**how, "weights": "raw", "spacing": "trailing"}
    metrics = ("fd", "memorisation")
    rows = evaluate(tmp_path, seeds=2, step=5, metrics=metrics, draw=draw)
    found = {row.name: row for row in rows}
    train, test = (pixels(load_digits(x).images) for x in ("train", "test"))
    expected, copied = [], []
    for seed in (4, 5):
        x = model["raw"].sample(
            seed,
            60,
            sampler="ddim",
            steps=3,
            spacing="trailing",
            guidance=1.5,
            label=np.arange(60) % 10,
        )
        expected.append(distance(to_uint8(x), load_digits("train").images))
        copied.append(memorisation(pixels(to_uint8(x)), train, test))
    np.testing.assert_allclose(found["fd"].values, expected, rtol=1e-5)
    np.testing.assert_allclose(found["fd"].mean, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(found["fd"].spread, np.std(expected, ddof=1), rtol=1e-3)
    np.testing.assert_allclose(found["memorisation"].values, copied, rtol=1e-4)

    written = record(tmp_path / "evaluation")
    assert written["metrics"]["fd"]["shown"] == "digits-FD"
    samples = written["samples"]
    assert samples["seeds"] == [4, 5] and samples["n"] == 60
    assert samples["trained steps"] == 5
    assert samples["per class"] == {str(i): 6 for i in range(10)}
    assert {name: samples[name] for name in draw if name != "seed"} == {
        name: value for name, value in draw.items() if name != "seed"
    }
    assert samples["pixels"] == "to_uint8"
    assert written["reference"] == {
        "set": "digits/train",
        "n": 1498,
        "unseen images of memorisation": "digits/test",
    }
    assert written["network"]["checksum"] == classifier.find(DataConfig())[0].checksum
    assert set(written["versions"]) == set(report.VERSIONS)
    assert not (tmp_path / "evaluation" / "unfinished").exists()


def test_a_split_and_its_mirror_images_are_a_reference_too(model, tmp_path):
    options = {"metrics": ("fd",), "seeds": 1, "draw": {"steps": 2}}
    (row,) = evaluate(
        tmp_path, reference="test", reference_flip=True, out=tmp_path / "a", **options
    )
    x = model["ema"].sample(0, 60, steps=2, label=np.arange(60) % 10)
    real = load_digits("test").images
    both = np.concatenate([real, real[:, :, ::-1]])
    np.testing.assert_allclose(row.mean, distance(to_uint8(x), both), rtol=1e-5)
    written = record(tmp_path / "a")["reference"]
    assert written == {"set": "digits/test", "flip": True, "n": 598}


def test_the_protocol_says_how_many_samples_and_how_they_are_rounded(
    model, tmp_path, monkeypatch
):
    fixed = {"num": 50, "rounding": round_down}
    other = dataclasses.replace(PROTOCOLS["classifier"], **fixed)
    monkeypatch.setitem(PROTOCOLS, "openai", other)
    options = {"seeds": 1, "metrics": ("fd",), "draw": {"num": None, "steps": 2}}
    (row,) = evaluate(tmp_path, protocol="openai", **options)
    x = model["ema"].sample(0, 50, steps=2, label=np.arange(50) % 10)
    train = load_digits("train").images
    down, usual = (distance(f(x), train) for f in (round_down, to_uint8))
    assert abs(down / usual - 1) > 5e-5  # or it could not tell them apart
    np.testing.assert_allclose(row.mean, down, rtol=1e-5)


def test_a_killed_evaluation_draws_only_what_is_missing(model, tmp_path, monkeypatch):
    whole = evaluate(tmp_path / "a", seeds=2, metrics=("fd",), draw={"steps": 2})
    put, drawn = drawing.Parts.put, []

    def killed(parts, batch, samples):
        put(parts, batch, samples)
        drawn.append(batch)
        if len(drawn) == 3:  # the first of the second seed
            raise KeyboardInterrupt

    monkeypatch.setattr(drawing.Parts, "put", killed)
    for _ in range(2):
        try:
            again = evaluate(
                tmp_path / "b", seeds=2, metrics=("fd",), draw={"steps": 2}
            )
        except KeyboardInterrupt:
            assert len(drawn) == 3
            assert not list((tmp_path / "b" / "evaluation").glob("*.json"))
    assert drawn == [0, 1, 0, 1]
    assert again == whole


def test_images_against_images_and_against_their_statistics(tmp_path, model):
    """From a folder, an .npz, and a file of statistics that the command wrote."""
    train, test = load_digits("train").images[:300], load_digits("test").images[:50]
    folder, npz = tmp_path / "folder", tmp_path / "samples.npz"
    folder.mkdir()
    for i, image in enumerate(test):
        Image.fromarray(image[..., 0]).save(folder / f"{i:03d}.png")
    np.savez(npz, arr_0=test)
    real, kept = tmp_path / "real.npz", tmp_path / "kept.npz"
    np.savez(real, images=train)
    path = tmp_path / "classifier.npz"
    path.write_bytes(
        (resources.files(classifier.__package__) / "digits.npz").read_bytes()
    )

    def measured(images, reference, **options):
        own = command.Options(
            images=images,
            reference=str(reference),
            features=path,
            metrics=("fd",),
            out=tmp_path / "out",
            **options,
        )
        return command.main(own)[0].mean

    expected = distance(test, train)
    for images in (folder, npz):
        found = measured(images, real, save_reference=kept)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(measured(npz, kept), expected, rtol=1e-5)
    assert record_of(tmp_path / "out", "samples")["reference"]["n"] == 300
    other, facts = classifier.find(DataConfig())
    other_path = tmp_path / "other.npz"
    params = jax.tree.map(lambda leaf: np.asarray(leaf) * 2, other.params)
    classifier.save(other_path, params, facts)
    options = {"images": npz, "reference": str(kept), "metrics": ("fd",)}
    with pytest.raises(ValueError, match="statistics of other features: their check"):
        command.main(command.Options(features=other_path, **options))
    with pytest.raises(ValueError, match=r"name no data set .* give --features FILE"):
        command.main(command.Options(**options))
    drawn = command.Draw(num=20)
    few = command.Options(
        images=npz, reference=str(real), features=path, draw=drawn, out=tmp_path / "o"
    )
    rows = {row.name for row in command.main(few)}
    assert {"fd", "precision", "coverage", "mind"} <= rows
    notes = record_of(tmp_path / "o", "samples")["notes"]
    assert any("20 samples are no more than the 64 features" in x for x in notes)
    assert any("memorisation is not measured: memorisation is told" in x for x in notes)
    assert any("fd_infinity is not measured: FID at inf" in note for note in notes)


def record_of(folder, stem):
    """The newest of a name."""
    found = folder.glob(f"classifier_{stem}_*.json")
    return json.loads(max(found, key=lambda path: path.stat().st_mtime_ns).read_text())


def small_inception(path, *, resize):
    """The network in a file, as its checksum says, computing next to nothing."""
    network = inception.load(path, resize=resize)

    def apply(params, images):
        rows = images.reshape(len(images), -1)[:, :2023] / np.float32(255)
        logits = rows @ params["fc"]["kernel"][:2023] / 30
        features = {"2048": rows[:, :9], "spatial": rows[:, 9:14], "logits": -logits}
        return features | {"logits_unbiased": logits}

    return dataclasses.replace(network, apply=apply)


def test_what_cannot_be_told_is_refused_before_anything_is_drawn(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(drawing, "draw_parts", None)
    for metrics, rule in (
        (("fd", "sfid"), "classifier's network has nothing for sfid"),
        (("fid",), "FID is told from Inception's features; classifier has fd"),
        (("memorisation",), "the reference is not known to be these"),
    ):
        with pytest.raises(ValueError, match=rule):
            evaluate(tmp_path, reference="test", metrics=metrics)
    with pytest.raises(ValueError, match="split must be one of"):
        config = dataclasses.replace(model["ema"].config.data, test_split="validation")
        for name in model:
            own = dataclasses.replace(model[name].config, data=config)
            model[name] = dataclasses.replace(model[name], config=own)
        evaluate(tmp_path, likelihood=True)


def test_kept_samples_are_measured_again_and_not_drawn(model, tmp_path, monkeypatch):
    options = {"seeds": 1, "draw": {"steps": 2}, "keep_samples": True}
    first = evaluate(tmp_path, metrics=("fd",), **options)
    monkeypatch.setattr(drawing.Parts, "put", None)
    again = evaluate(tmp_path, metrics=("fd", "recall"), **options)
    assert again[0].values == first[0].values
    assert len(list((tmp_path / "evaluation").glob("*.json"))) == 2


def test_without_a_test_split_there_are_still_metrics(model, tmp_path):
    """Unseen images are then training images, each beside the nearest other one."""
    ema = model["ema"]
    data = dataclasses.replace(ema.config.data, test_split="validation")
    config = dataclasses.replace(ema.config, data=data)
    model["ema"] = dataclasses.replace(ema, config=config)
    how = {"seeds": 1, "draw": {"steps": 2}}
    (row,) = evaluate(tmp_path, metrics=("memorisation",), **how)
    rows = load_digits("train").images.reshape(-1, 64) / 127.5 - 1
    x = model["ema"].sample(0, 60, steps=2, label=np.arange(60) % 10)
    near = nearest_distances(to_uint8(x).reshape(-1, 64) / 127.5 - 1, rows)
    others = nearest_distances(rows, rows, rank=1)
    expected = np.median(near) / np.median(others)
    np.testing.assert_allclose(row.mean, expected, rtol=1e-4)
    written = record(tmp_path / "evaluation")["reference"]
    assert written["unseen images of memorisation"] == "training images"


def test_openais_protocol_walks_from_files_to_five_numbers(
    tmp_path, made_weights, monkeypatch
):
    """As with the public files: weights, reference with mu_s and arr_0, samples."""
    patched = types.SimpleNamespace(load=small_inception)
    monkeypatch.setattr(command.networks, "inception", patched)
    rng = np.random.default_rng(0)
    weights = tmp_path / "inception.npz"
    np.savez(weights, **made_weights)
    samples, real = (rng.integers(0, 256, (6, 32, 32, 3), np.uint8) for _ in range(2))
    np.savez(tmp_path / "samples.npz", arr_0=samples)
    np.savez(tmp_path / "real.npz", arr_0=real)
    kept = tmp_path / "VIRTUAL_made.npz"

    def measured(reference, **options):
        own = command.Options(
            images=tmp_path / "samples.npz",
            reference=str(reference),
            features=weights,
            protocol="openai",
            out=tmp_path / "out",
            **options,
        )
        return {row.name: row.mean for row in command.main(own)}

    first = measured(tmp_path / "real.npz", save_reference=kept)
    names = PROTOCOLS["openai"].metrics
    assert list(first)[:5] == list(names)
    with np.load(kept) as arrays:
        assert set(arrays) >= {"mu", "sigma", "mu_s", "sigma_s"}
        stored = dict(arrays)
    np.savez(kept, **stored, arr_0=real)  # as OpenAI's have
    second = measured(kept, metrics=names)
    for name in names:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-5)
    del stored["mu_s"], stored["sigma_s"]
    np.savez(kept, **stored)
    with pytest.raises(ValueError, match="must hold statistics of spatial features"):
        measured(kept, metrics=("fid", "sfid"))
    with pytest.raises(ValueError, match="precision and recall must have the ref"):
        measured(kept, metrics=("precision",))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"images": ".", "reference": ".", "seeds": 2}, "--seeds is of samples that"),
        (
            {"images": ".", "reference": ".", "draw": command.Draw(steps=5)},
            "--steps is of samples that are drawn",
        ),
        (
            {"workdir": ".", "save_reference": Path("a.txt")},
            r"a\.txt must end in \.npz",
        ),
        ({}, "one of them; got neither"),
        ({"workdir": ".", "images": "."}, "one of them; got both"),
        ({"images": "."}, "--images needs --reference"),
        (
            {"images": ".", "reference": ".", "likelihood": True},
            "--likelihood is of",
        ),
        ({"images": ".", "reference": ".", "step": 5}, "--step is of samples"),
        ({"workdir": ".", "published": 0.0}, "--published must be above 0; got 0"),
        ({"workdir": ".", "seeds": 0}, "--seeds must be at least 1; got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        command.Options(**options)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"reference": "tset"}, "tset"),
        ({"metrics": ("fdi",)}, "a metric is one of .*; got fdi"),
        ({"metrics": ("sfid",)}, "classifier's network has nothing for sfid"),
        ({"protocol": "openai", "features": "none.npz"}, "there is no file none.npz"),
        ({"draw": {"num": 1}}, "a covariance must be of at least 2 images; got 1"),
        ({"draw": {"steps": 7}}, r"must lie in 1\.\.6; got 7"),
    ],
)
def test_what_cannot_be_measured_is_one_line(model, tmp_path, options, rule):
    with pytest.raises((ValueError, OSError), match=rule):
        evaluate(tmp_path, **{"draw": {"steps": 2}, **options})


@pytest.mark.parametrize(
    ("write", "rule"),
    [
        (lambda p: np.savez(p, arr_0=np.zeros((5, 8, 8, 1))), "got float32 of shape"),
        (lambda p: np.savez(p, arr_0=np.zeros((1, 8, 8, 1), np.uint8)), "got 1"),
        (lambda p: np.savez(p, other=np.zeros(3)), "must hold images as arr_0 or"),
        (lambda p: p.write_bytes(b"PK no zip"), "samples.npz"),
    ],
)
def test_files_without_images_are_one_line(tmp_path, write, rule):
    path = tmp_path / "samples.npz"
    write(path)
    with pytest.raises(ValueError, match=rule):
        command.main(command.Options(images=path, reference=str(path), out=tmp_path))


def test_images_of_other_sizes_are_named(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, size in enumerate((8, 8, 9)):
        Image.new("L", (size, 8)).save(folder / f"{i}.png")
    network = tmp_path / "classifier.npz"
    network.write_bytes(
        (resources.files(classifier.__package__) / "digits.npz").read_bytes()
    )
    options = command.Options(images=folder, reference=str(folder), features=network)
    with pytest.raises(ValueError, match=r"2\.png: all images of a set must have one"):
        command.main(options)
    assert not list(tmp_path.rglob("*.json"))


def test_a_figure_is_held_against_a_published_one():
    row = report.summarise("fid", "FID", [Value(x) for x in (3.25, 3.29, 3.21)])
    np.testing.assert_allclose((row.mean, row.spread), (3.25, 0.04))
    more = report.comparison(row, 3.17)
    assert "FID 3.25 is 2.5% above the published 3.17: more than" in more
    assert ": no more than training seeds (1.3%)" in report.comparison(row, 3.21)
    assert "sampling seeds (0.7%)" in more  # of the mean of three
    score = report.summarise("is", "IS", [Value(9.0)])
    assert "sampling seeds (not known)" in report.comparison(score, 9.4)
    assert report.compared([score, row], first=False) == row
    assert report.compared([score, row], first=True) == score
    one = report.summarise("is", "IS", [Value(9.0, 0.1)])
    assert (one.spread, one.better) == (0.1, "higher")
    copies = report.summarise("memorisation", "memorisation", [Value(0.1)])
    assert copies.better == "near 1"


def test_the_notes_say_what_a_reader_must_know():
    network = FeatureNetwork.from_function("own", lambda x: x)
    rows = [report.summarise("memorisation", "memorisation", [Value(0.8)])]
    openai, counts = PROTOCOLS["openai"], {"samples": 1000, "reference images": 2048}
    found = "\n".join(report.notes(openai, rows, counts, 2048, network))
    assert "full rank" not in found  # without a distance of covariances
    rows.append(report.summarise("fid", "FID", [Value(3.0)]))
    found = "\n".join(report.notes(openai, rows, counts, 2048, network))
    assert "1,000 samples are no more than the 2,048 features" in found
    assert "2,048 reference images are no more than the 2,048 features" in found
    assert "openai measures 50,000 samples, these are 1,000: the Frechet" in found
    assert "weights are not the published ones" in found
    assert "memorisation 0.800 is below 1" in found
    usual = dataclasses.replace(network, published=True)
    counts = {"samples": 50_000, "reference images": None}
    assert report.notes(openai, rows[1:], counts, 2048, usual) == []


def test_the_likelihood_joins_the_table(model, tmp_path, monkeypatch):
    monkeypatch.setattr(command.build, "load_images", some_digits)
    rows = evaluate(
        tmp_path,
        seeds=1,
        metrics=("fd",),
        likelihood=True,
        draw={"steps": 2, "seed": 4, "weights": "raw"},
    )
    bits = rows[-1]
    images = some_digits(None, "test")
    x = images.images / np.float32(127.5) - 1
    found = model["raw"].bits_per_dim(4, x, label=images.labels).total
    np.testing.assert_allclose(bits.mean, found.mean(), rtol=1e-4)
    np.testing.assert_allclose(bits.spread, found.std(ddof=1) / np.sqrt(20), rtol=1e-3)


def some_digits(config, split):
    data = load_digits(split)
    return dataclasses.replace(data, images=data.images[:20], labels=data.labels[:20])


def test_the_self_test_prints_its_table(capsys, monkeypatch):
    assert command.main(command.Options(self_test=True)) == []
    printed = capsys.readouterr().out
    assert printed.count("| ok |") >= 8 and "WRONG" not in printed
    checks = command.self_test.self_test()
    wrong = checks[0]._replace(value=checks[0].expected + 1)
    monkeypatch.setattr(command.self_test, "self_test", lambda: [wrong])
    with pytest.raises(
        ValueError, match="the self-test fails: Fréchet distance of two"
    ):
        command.main(command.Options(self_test=True))

"""The likelihood of a run: independent of batches, and written where it is said."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import toy_model

from ddpm_jax import build, loading
from ddpm_jax.data import to_float
from ddpm_jax.evaluation.likelihood import __main__ as likelihood
from ddpm_jax.evaluation.likelihood.bound import standard_error
from ddpm_jax.ownership import claimed


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return shutil.copytree(small_run, workdir, dirs_exist_ok=True)


def test_the_bound_does_not_depend_on_the_batch(run):
    model = loading.load(run)
    data = build.load_images(model.config.data, "test")
    data = dataclasses.replace(data, images=data.images[:19], labels=data.labels[:19])
    a, b = (
        likelihood.evaluate(
            jax.random.key(0), model, model.schedule, data, batch_size=size
        )
        for size in (8, 16)
    )
    assert a.terms.shape == (19, 20)
    np.testing.assert_allclose(a.total, b.total, rtol=1e-4)
    np.testing.assert_allclose(a.total, a.prior + a.terms.sum(1), rtol=1e-5)


def test_the_command_writes_what_it_says(run, capsys):
    likelihood.main(likelihood.Options(workdir=run, num=16, steps=5))
    out = run / "likelihood"
    result = json.loads((out / "bits_per_dim.json").read_text())
    terms = np.load(out / "terms.npz")
    assert terms["terms"].shape == (16, 5)
    np.testing.assert_allclose(result["bits_per_dim"], terms["total"].mean(), rtol=1e-5)
    parts = result["prior"] + result["divergences"] + result["decoder"]
    np.testing.assert_allclose(result["bits_per_dim"], parts, rtol=1e-4)
    assert (out / "terms.png").stat().st_size > 5000
    assert f"{result['bits_per_dim']:.4f} +-" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--num must lie in 1\.\.299; got 300"):
        likelihood.main(likelihood.Options(workdir=run, num=300))


def test_the_command_measures_what_it_is_told(tmp_path, monkeypatch):
    """Every option, by hand: images, their labels, weights, chain, noise."""
    how = {"size": 8, "classes": 10, "predict": "v", "variance": "learned_range"}
    models = {x: toy_model(i, **how) for i, x in enumerate(("ema", "raw"))}
    monkeypatch.setattr(
        likelihood, "load", lambda path, *, weights, agree: models[weights]
    )

    def measured(**options):
        options = {"num": 6, "seed": 3, **options}
        likelihood.main(likelihood.Options(workdir=tmp_path, **options))
        out = tmp_path / "likelihood"
        result = json.loads((out / "bits_per_dim.json").read_text())
        return np.load(out / "terms.npz"), result

    told = {"split": "train", "steps": 4, "weights": "raw", "batch_size": 3}
    terms, result = measured(**told)
    data = build.load_images(models["raw"].config.data, "train")
    x0, labels = to_float(jnp.asarray(data.images[:6])), data.labels[:6]
    hand = models["raw"].bits_per_dim(jax.random.key(3), x0, steps=4, label=labels)
    for name in hand._fields:
        np.testing.assert_allclose(terms[name], getattr(hand, name), rtol=1e-3)
    np.testing.assert_array_equal(terms["timesteps"], [0, 2, 3, 5])
    parts = {
        "bits_per_dim": hand.total,
        "prior": hand.prior,
        "decoder": hand.terms[:, 0],
        "divergences": hand.terms[:, 1:].sum(1),
    }
    for name, values in parts.items():
        np.testing.assert_allclose(result[name], np.mean(values), rtol=1e-3)
    assert result["images"] == 6
    # Nothing but the size of a batch may be left out.
    for option, other in (("split", None), ("weights", "ema"), ("seed", 4)):
        found, _ = measured(**told | {option: other})
        assert np.abs(found["total"] - terms["total"]).max() > 1e-3, option
    found, _ = measured(**told | {"batch_size": 6})
    np.testing.assert_allclose(found["total"], terms["total"], rtol=1e-4)


def test_the_results_appear_whole_and_before_any_process_leaves(
    run, monkeypatch, capsys
):
    out, met = run / "likelihood", []

    def barrier(name):
        met.append((name, (out / "bits_per_dim.json").exists()))

    def half(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    shutil.rmtree(out, ignore_errors=True)
    options = likelihood.Options(workdir=run, num=4, steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", half)
        with pytest.raises(OSError, match="no space left"):
            likelihood.main(options)
    assert not out.exists()
    assert "bits/dim over 4 images" in capsys.readouterr().out  # no work is lost
    monkeypatch.setattr(likelihood.processes, "barrier", barrier)
    likelihood.main(options)
    assert met[-1] == ("written", True)
    shutil.rmtree(out)
    monkeypatch.setattr(likelihood.processes, "is_main", lambda: False)
    likelihood.main(options)
    assert met[-1] == ("written", False)


def test_a_folder_that_cannot_be_written_is_found_out_first(run, tmp_path, monkeypatch):
    monkeypatch.setattr(likelihood, "evaluate", None)  # never called
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        options = likelihood.Options(workdir=run, out=out, num=4, steps=5)
        with pytest.raises(OSError, match=rf"--out {out} must be a folder that can"):
            likelihood.main(options)
    with claimed(run / "likelihood"), pytest.raises(OSError, match="in use by process"):
        likelihood.main(likelihood.Options(workdir=run, num=4, steps=5))


def test_the_results_go_where_they_are_wanted(run, tmp_path):
    out = tmp_path / "new" / "place"
    likelihood.main(likelihood.Options(workdir=run, out=out, num=4, steps=5))
    names = {"bits_per_dim.json", "terms.npz", "terms.png"}
    assert {path.name for path in out.iterdir()} == names


def test_one_image_has_no_standard_error_and_its_result_is_json(run, capsys):
    likelihood.main(likelihood.Options(workdir=run, num=1, steps=2))
    assert "nan" not in capsys.readouterr().out

    def no_number(name):
        raise AssertionError(name)

    text = (run / "likelihood" / "bits_per_dim.json").read_text()
    result = json.loads(text, parse_constant=no_number)
    assert result["standard_error"] is None and result["bits_per_dim"] > 0


@pytest.mark.parametrize("options", [{"seed": 2**32}, {"num": 0}, {"steps": 0}])
def test_numbers_that_no_evaluation_can_have_are_refused_by_name(options, run):
    (name,) = options
    with pytest.raises(ValueError, match=rf"^--{name} must be"):
        likelihood.Options(workdir=run, **options)


def test_the_standard_error_is_that_of_a_mean():
    values = np.array([1.0, 3.0, 5.0, 7.0])
    expected = np.sqrt(np.var(values, ddof=1) / 4)
    np.testing.assert_allclose(standard_error(values), expected)

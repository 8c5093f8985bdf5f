"""The model card of an export: it is read as the hub reads it, and tells only facts."""

import dataclasses
import importlib.util
import json
import re

import jax
import pytest
import yaml
from toy import small_config

import ddpm_jax
from ddpm_jax import build, drawing, loading
from ddpm_jax.interop import card
from ddpm_jax.interop.__main__ import main
from ddpm_jax.interop.save import save_archive, save_diffusers

UNKNOWN = "How these weights were trained is not recorded here."


def parts(folder):
    """(front matter, body) of the card in a folder, as YAML and as text."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    start, front, body = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front), body


def random_params(config):
    network = build.make_network(config)
    return build.init_params(jax.random.key(0), network, config.data)


def evaluated(workdir, model, **more):
    """An evaluation of the model among others that are none, and of others."""
    row = {"name": "fid", "shown": "digits-FD", "mean": 8.2e-5, "better": "lower"}
    record = {
        "metrics": {
            "fd": row | {"spread": 0.001},
            "kid": row | {"shown": "KID", "mean": None},
        },
        "protocol": {"name": "classifier"},
        "reference": {"set": "digits/train", "n": 1498},
        "samples": {
            **{"n": 2000, "seeds": [0, 1], "sampler": "ddim", "steps": 20},
            **{"spacing": "uniform", "model": drawing.digest(model)},
        },
        "notes": ["few | samples"],
        **more,
    }
    other = json.loads(json.dumps(record)) | {"notes": ["of other weights"]}
    other["samples"]["model"] = "0" * 64
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    for name, content in (
        *(("ours", json.dumps(record)), ("other", json.dumps(other))),
        *(("half", '{"metr'), ("list", "[]"), ("deep", "[" * 9999), ("empty", "{}")),
    ):
        (folder / f"{name}.json").write_text(content)


@pytest.fixture(scope="module")
def workdir(small_run, tmp_path_factory):
    """The run with an evaluation."""
    place = tmp_path_factory.mktemp("evaluated") / "run"
    place.mkdir()
    for path in small_run.iterdir():
        (place / path.name).symlink_to(path)
    evaluated(place, loading.load(place))
    return place


@pytest.mark.parametrize("form", ["safetensors", "npz", "diffusers"])
def test_an_export_has_a_card(form, workdir, tmp_path):
    out = tmp_path / "digits-small"
    words = ["export", str(workdir), str(out), "--format", form]
    main([*words, "--license", "cc-by-4.0"])
    front, body = parts(out)
    assert front["library_name"] == ("diffusers" if form == "diffusers" else "ddpm_jax")
    assert front["license"] == "cc-by-4.0"
    assert front["metrics"] == ["fd"] and "datasets" not in front
    (index,) = front["model-index"]
    (result,) = index["results"]
    assert index["name"] == "digits-small"
    assert result["metrics"] == [{"type": "fd", "name": "digits-FD", "value": 8.2e-5}]
    assert result["dataset"] == {"name": "digits/train", "type": "digits"}
    model = ddpm_jax.load(workdir)
    count = sum(x.size for x in jax.tree.leaves(model.params))
    for fact in (
        *("# digits-small", f"{count:,} parameters that predicts eps over 20 steps"),
        *("| updates trained | 2 |", "| images per update | 16 |"),
        *("| learning rate | 0.001 after 5 updates of warm-up |", "CC BY 4.0"),
        "2,000 samples of each of 2 seeds (ddim, 20 steps, uniform spacing)",
        *("| digits-FD | 8.2e-05 | 0.001 | lower |", r"- few \| samples"),
    ):
        assert fact in body, fact
    assert "other weights" not in body and str(workdir) not in body


@pytest.mark.filterwarnings("default")  # others', where PyTorch is imported
@pytest.mark.parametrize("form", ["npz", "diffusers"])
def test_what_a_card_says_to_run_runs(form, workdir, tmp_path, monkeypatch):
    out = tmp_path / "out"
    main(["export", str(workdir), str(out), "--format", form])
    monkeypatch.chdir(out)
    ours, *others = re.findall(r"```python\n(.*?)```", parts(out)[1], re.S)
    exec(ours, {})
    assert (out / "samples.png").stat().st_size > 100
    for program in others:
        compile(program, "card", "exec")
        if importlib.util.find_spec("diffusers") and importlib.util.find_spec("torch"):
            names = {}
            exec(program, names)
            assert names["x"].shape == (4, 1, 8, 8)
    assert len(others) == (form == "diffusers")


def test_nothing_is_told_of_what_is_not_known(tmp_path):
    config = small_config()
    save_archive(tmp_path / "a", config, random_params(config), npz=True)
    front, body = parts(tmp_path / "a")
    assert front["license"] == "unknown"
    assert not {"metrics", "datasets", "model-index"} & set(front)
    assert UNKNOWN in body
    assert "No evaluation of these weights is recorded." in body
    assert "learning rate" not in body and "updates trained" not in body


@pytest.mark.parametrize("form", ["safetensors", "npz", "diffusers"])
def test_what_is_known_of_the_training_goes_along(form, workdir, tmp_path):
    """Exported, exported of that, imported, and exported of that."""

    def told(src, weights="ema"):
        out = tmp_path / f"{src.name}-{weights}"
        main(["export", str(src), str(out), "--format", form, "--weights", weights])
        body = parts(out)[1]
        trained = "| images per update | 16 |" in body
        assert trained != (UNKNOWN in body)
        raw = "| weights | raw: as the last update left them, not their average |"
        assert (raw in body) != (
            trained and "| decay of the averaged weights |" in body
        )
        return trained, raw in body, out

    for weights in ("ema", "raw"):
        expected = (True, weights == "raw")
        *found, out = told(workdir, weights)
        assert tuple(found) == expected
        *found, again = told(out)
        assert tuple(found) == expected
        main(["import", str(again), "--workdir", str(tmp_path / f"w-{weights}")])
        *found, out = told(tmp_path / f"w-{weights}")
        assert tuple(found) == expected


@pytest.mark.parametrize("content", [None, "{", "[]", '{"trained": 1, "raw": "no"}'])
def test_what_is_not_known_of_the_training_is_not_made_up(content, workdir, tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    (place / "checkpoints").symlink_to(workdir / "checkpoints")  # without its log
    if content is not None:
        (place / "origin.json").write_text(content)
    main(["export", str(place), str(tmp_path / "out"), "--format", "npz"])
    body = parts(tmp_path / "out")[1]
    assert UNKNOWN in body and "learning rate" not in body and "| raw" not in body


@pytest.mark.parametrize("source", ["folder", "tfds"])
@pytest.mark.parametrize("form", ["safetensors", "npz", "diffusers"])
def test_where_images_lie_is_not_told(form, source, tmp_path):
    path = "/home/somebody/photos"
    config = small_config()
    data = dataclasses.replace(config.data, source=source, name="cifar10", path=path)
    config = dataclasses.replace(config, data=data)
    record = {
        "metrics": {"fid": {"mean": 2.0}},
        "reference": {"set": path if source == "folder" else "cifar10/train"},
        "samples": {},
    }
    known = card.Known(trained=True, evaluations=[record])
    out = tmp_path / "out"
    save = save_diffusers if form == "diffusers" else save_archive
    npz = {"npz": True} if form == "npz" else {}
    save(out, config, random_params(config), known=known, **npz)
    told = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert b"somebody" not in told and b"photos" not in told
    assert (b"cifar10/train" in told) == (source == "tfds")
    model = ddpm_jax.load(out)
    assert model.sample(0, 1, steps=2, sampler="ddim", label=1).shape == (1, 8, 8, 1)
    if source == "folder":
        for read in (build.read_images, build.open_images):
            with pytest.raises(ValueError, match="must name the image folder; got ''"):
                read(model.config.data, "train")
        front, _ = parts(out)
        (result,) = front["model-index"][0]["results"]
        assert result["dataset"]["name"] == "a folder of images"


def test_an_evaluation_may_hold_any_number():
    config = small_config()
    rows = {"a": {"mean": 10**400}, "b": {"mean": 1.5, "spread": 10**400}}
    known = card.Known(evaluations=[{"metrics": rows, "samples": {}}])
    params = random_params(config)
    text = card.model_card(config, params, "npz", step=0, known=known)
    assert "| b | 1.5 |  |" in text and "| a |" not in text


def test_a_data_set_of_tfds_is_named_and_a_path_is_not(tmp_path):
    base = small_config(classes=None)
    data = {"source": "tfds", "name": "cifar10/plain:3.0", "path": "/home/somebody"}
    known = card.Known(trained=True)
    for i, changes in enumerate([data, data | {"source": "folder"}]):
        data_config = dataclasses.replace(base.data, **changes)
        config = dataclasses.replace(base, data=data_config)
        folder = tmp_path / str(i)
        save_diffusers(folder, config, random_params(config), step=7, known=known)
        front, body = parts(folder)
        assert front.get("datasets") == (["cifar10"] if i == 0 else None)
        assert "somebody" not in body
        assert "DDPMPipeline.from_pretrained" in body and "no labels" in body


NAMES = ('"\n---\nlicense: mit', "a|b*c_`d`", "<script>alert(1)</script>", "\x1b[31m")


def test_no_name_breaks_the_card(tmp_path):
    config = small_config(classes=len(NAMES))
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, class_names=NAMES)
    )
    params = random_params(config)
    records = [
        {
            "metrics": {name: {"mean": 1.5, "shown": name, "better": name}},
            "samples": {"n": 1, "sampler": name, "spacing": name},
            "reference": {"set": name},
            "protocol": {"name": name},
            "notes": [name],
        }
        for name in NAMES
    ]
    known = card.Known(True, records, 'mit"\nx: y', "# n|")
    text = card.model_card(config, params, "npz", step=1, known=known)
    _, front, body = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == 'mit" x: y' and "x" not in found
    assert found["metrics"] == [" ".join(NAMES[0].split()), *NAMES[1:3], "\\x1b[31m"]
    assert "<script" not in body and "\x1b" not in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert bars == {3, 5}


@pytest.mark.parametrize("value", [8.2e-5, 1e20, 0.0, -3.0, 1234567.0, 3.25])
def test_numbers_are_numbers_to_yaml(value):
    found = yaml.safe_load(card._yaml({"x": [value, 7, True, None, "1e5"]}))
    assert found == {"x": [pytest.approx(value, rel=1e-5), 7, True, None, "1e5"]}


@pytest.mark.filterwarnings("default")
def test_the_pipeline_of_a_model_without_labels_draws(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    config = small_config(classes=None)
    save_diffusers(tmp_path / "out", config, random_params(config))
    monkeypatch.chdir(tmp_path / "out")
    _, program = re.findall(r"```python\n(.*?)```", parts(tmp_path / "out")[1], re.S)
    exec(program, {})
    assert (tmp_path / "out" / "sample.png").stat().st_size > 50

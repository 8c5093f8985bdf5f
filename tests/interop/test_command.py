"""`python -m ddpm_jax.interop`, from foreign weights to a workdir and out again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toy import toy_model

import ddpm_jax
from ddpm_jax import loading
from ddpm_jax.config import from_dict
from ddpm_jax.diffusion import samplers
from ddpm_jax.interop.__main__ import main
from ddpm_jax.interop.read import read_model
from ddpm_jax.model import Model

HO = "ho_ddim_layout_mini"
PEERS = dict(np.load(Path(__file__).parents[1] / "golden" / "networks_peers.npz"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, peer_weights):
    folder = tmp_path_factory.mktemp("ho")
    save_file(peer_weights(HO), folder / "weights.safetensors")
    main(
        [
            *("import", str(folder / "weights.safetensors")),
            *("--workdir", str(folder / "run")),
            *("--image-size", "16", "--num-steps", "10", "--step", "790000"),
        ]
    )
    return folder / "run"


def test_imported_weights_are_a_model(workdir, peer_weights):
    model = ddpm_jax.load(workdir)
    assert model.step == 790000
    assert model.config == from_dict(json.loads((workdir / "config.json").read_text()))
    kernel = peer_weights(HO)["conv_in.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.params["conv_in"]["kernel"], kernel)
    images = model.sample(jax.random.key(0), 1, steps=2)
    assert images.shape == (1, 16, 16, 3)
    assert np.isfinite(images).all()


def test_it_says_where_everything_comes_from(tmp_path, peer_weights, capsys):
    save_file(peer_weights(HO), tmp_path / "w.safetensors")
    words = f"import {tmp_path}/w.safetensors --workdir {tmp_path}/run --image-size 16"
    main(words.split())
    lines = capsys.readouterr().out.splitlines()
    said = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert said["options"] == "data.image_size=16"
    assert "network.multipliers=(1,2)" in said["keys and shapes"]
    assert "diffusion.schedule.kind=linear" in said["guessed"]
    assert lines[-1].startswith("guessed: ")
    assert lines[-1].endswith("--num-steps --predict --schedule --variance")
    assert said["so"] == "network.attention_resolutions=(8,)"


@pytest.mark.parametrize("form", ["diffusers", "safetensors", "npz"])
def test_an_export_is_the_model(form, workdir, tmp_path):
    out = tmp_path / "out"
    main(["export", str(workdir), "--format", form, str(out)])
    weights, model = read_model(out), ddpm_jax.load(workdir)
    assert (weights.config, weights.step) == (model.config, model.step)
    names = {
        "diffusers": "unet",
        "safetensors": "model.safetensors",
        "npz": "model.npz",
    }
    assert [x for x in names if (out / names[x]).exists()] == [form]
    jax.tree.map(np.testing.assert_array_equal, weights.params, model.params)
    with pytest.raises(FileExistsError):
        main(["export", str(workdir), "--format", form, str(out)])


def test_an_export_to_diffusers_imports_again(workdir, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["export", str(workdir), str(first), "--format", "diffusers"])
    main(["import", str(first), "--workdir", str(tmp_path / "run")])
    main(["export", str(tmp_path / "run"), str(second), "--format", "diffusers"])
    name = "unet/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(first / name), load_file(second / name)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        np.testing.assert_array_equal(theirs[key], tensor)


def test_an_exported_sampler_is_a_file(workdir, tmp_path):
    out = tmp_path / "sampler.stablehlo"
    main(["export", str(workdir), str(out), "--format", "stablehlo", "--steps", "2"])
    exported = jax.export.deserialize(bytearray(out.read_bytes()))
    assert exported.out_avals[0].shape[1:] == (16, 16, 3)


def test_every_option_of_an_export_reaches_it(tmp_path, monkeypatch):
    read, calls, model = [], [], toy_model()

    def load(path, *, step, weights):
        read.append((path, step, weights))
        return model

    def drawn(sampler):
        chain, shape = model.schedule, (1, 2)
        return samplers.sample(0, lambda x, t: 0.5 * x, chain, shape, sampler=sampler)

    def export(model, path, *, sampler, **options):
        calls.append((path.name, drawn(sampler), options))

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(Model, "export", export)
    to = f"export run {tmp_path}/{{}} --format stablehlo"
    chain = "--sampler unipc --spacing karras --lambda-min -3.5 --steps 4"
    chain += " --step 7 --weights raw"
    main([*to.format("a").split(), *chain.split()])
    main([*to.format("b").split(), *"--sampler ddim --eta 0.5".split()])
    assert read == [(Path("run"), 7, "raw"), (Path("run"), None, "ema")]
    (a, first, one), (b, second, none) = calls
    assert (a, b) == ("a", "b")
    assert one == {"steps": 4, "spacing": "karras", "lambda_min": -3.5}
    assert none == dict.fromkeys(one)
    np.testing.assert_array_equal(first, drawn(samplers.unipc()))
    np.testing.assert_array_equal(second, drawn(samplers.ddim(eta=0.5)))


def test_the_order_of_attention_is_said(tmp_path, peer_weights, capsys):
    name = "guided_unet_classcond_legacyattn"
    save_file(peer_weights(name), tmp_path / "w.safetensors")
    words = f"import {tmp_path}/w.safetensors --workdir {tmp_path}/run --image-size 16"
    main(words.split())
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("guessed: attention_order=legacy, ")
    assert "network.num_heads=4" in last
    assert "--attention-order --num-heads --num-steps" in last


def test_options_of_another_format_are_refused(workdir, tmp_path):
    with pytest.raises(ValueError, match="--steps"):
        main(f"export {workdir} {tmp_path}/out --format npz --steps 2".split())


def test_what_cannot_be_imported_leaves_nothing(tmp_path):
    """As a program: one line, exit code 1, and no workdir."""
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ddpm_jax.interop", "import"),
            *("weights.safetensors", "--workdir", "run"),
        ],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: weights.safetensors is not a whole")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_weights_are_loaded_without_an_import(diffusers_folder):
    model = ddpm_jax.load(diffusers_folder)
    name = "diffusers_unet2d_cifar_mini"
    x, t = PEERS[f"{name}/x"].transpose(0, 2, 3, 1), PEERS[f"{name}/t"]
    expected = PEERS[f"{name}/out"].transpose(0, 2, 3, 1)
    found = model.denoise(x, t)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_model_that_knows_classes_alone_is_imported(tmp_path, peer_weights, capsys):
    name = "guided_unet_classcond_legacyattn"
    save_file(peer_weights(name), tmp_path / "w.safetensors")
    words = f"import {tmp_path}/w.safetensors --workdir {tmp_path}/run --image-size 16"
    main(words.split())
    model = ddpm_jax.load(tmp_path / "run")
    inputs = (PEERS[f"{name}/{key}"] for key in ("t", "y"))
    found = model.denoise(PEERS[f"{name}/x"].transpose(0, 2, 3, 1), *inputs)
    expected = PEERS[f"{name}/out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    last = model.config.data.num_classes - 1
    with pytest.raises(ValueError, match=f"class-conditional: give a label 0..{last}"):
        model.sample(jax.random.key(0), 1, steps=2)
    capsys.readouterr()
    main(f"export {tmp_path}/run {tmp_path}/out --format diffusers".split())
    assert "DDPMPipeline gives no labels" in capsys.readouterr().out

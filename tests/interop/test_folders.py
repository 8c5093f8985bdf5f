"""Which file of a folder is read, and what lies beside it."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ddpm_jax
from ddpm_jax.interop.read import read_model

PLAIN = "diffusion_pytorch_model.safetensors"
INDEX = PLAIN + ".index.json"
EMA = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 500,
    "power": 0.75,
    "update_after_step": 0,
    "use_ema_warmup": True,
}


def write(path, values):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


def extend(path, values):
    write(path, json.loads(path.read_text()) | values)


def assert_same(weights, others):
    jax.tree.map(np.testing.assert_array_equal, weights.params, others.params)


@pytest.fixture
def expected(diffusers_folder):
    return read_model(diffusers_folder)


def sharded(folder, index=INDEX):
    """The folder with its weights in two files and an index."""
    tensors = load_file(folder / PLAIN)
    (folder / PLAIN).unlink()
    ending = "bin" if ".bin." in index else "safetensors"
    names = [f"a-0000{i}-of-00002.{ending}" for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(tensors)}
    for name in names:
        part = {key: x for key, x in tensors.items() if places[key] == name}
        save_as(part, folder / name)
    write(folder / index, {"metadata": {"total_size": 1}, "weight_map": places})


def save_as(tensors, path):
    if path.suffix == ".safetensors":
        return save_file(tensors, path)
    torch = pytest.importorskip("torch")
    torch.save({key: torch.from_numpy(x) for key, x in tensors.items()}, path)


def test_a_variant_that_is_alone_is_read(diffusers_folder, expected):
    variant = diffusers_folder / "diffusion_pytorch_model.fp16.safetensors"
    (diffusers_folder / PLAIN).rename(variant)
    assert_same(read_model(diffusers_folder), expected)
    save_file({"x": np.zeros(1)}, variant.with_name(PLAIN.replace(".", ".non_ema.", 1)))
    with pytest.raises(ValueError, match=r"fp16\.safetensors.*non_ema\.safetensors"):
        read_model(diffusers_folder)


@pytest.mark.parametrize("given", ["folder", "index"])
def test_many_files_are_read_by_their_index(given, diffusers_folder, expected):
    sharded(diffusers_folder)
    place = diffusers_folder / INDEX if given == "index" else diffusers_folder
    assert_same(read_model(place), expected)


@pytest.mark.parametrize(
    "index",
    [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bin.index.json",
        "diffusion_pytorch_model.bin.index.fp16.json",
        "pytorch_model.bin.index.json",
    ],
)
def test_many_files_of_every_form_are_read(index, diffusers_folder, expected):
    sharded(diffusers_folder, index)
    for place in (diffusers_folder, diffusers_folder / index):
        assert_same(read_model(place), expected)


@pytest.mark.parametrize(
    "name",
    [
        *("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"),
        *("pytorch_model.bin", "diffusion_pytorch_model.non_ema.safetensors"),
    ],
)
def test_a_file_of_every_form_is_read(name, diffusers_folder, expected):
    tensors = load_file(diffusers_folder / PLAIN)
    (diffusers_folder / PLAIN).unlink()
    save_as(tensors, diffusers_folder / name)
    assert_same(read_model(diffusers_folder), expected)


def test_safetensors_go_before_what_pytorch_reads(diffusers_folder, expected):
    variant = diffusers_folder / "diffusion_pytorch_model.fp16.safetensors"
    (diffusers_folder / PLAIN).rename(variant)
    variant.with_suffix(".bin").write_bytes(b"not read")
    assert_same(read_model(diffusers_folder), expected)


def test_a_part_that_was_not_fetched_is_named(diffusers_folder):
    sharded(diffusers_folder)
    part = diffusers_folder / "a-00002-of-00002.safetensors"
    part.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(ValueError, match=r"a-00002.*git lfs pull"):
        read_model(diffusers_folder)


def test_a_byte_order_mark_is_no_harm(diffusers_folder, expected):
    write(diffusers_folder / "scheduler_config.json", {"num_train_timesteps": 77})
    for path in diffusers_folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    weights = read_model(diffusers_folder)
    assert_same(weights, expected)
    assert weights.config.diffusion.schedule.num_steps == 77


def test_names_of_blocks_may_have_the_first_versions_prefix(diffusers_folder, expected):
    said = diffusers_folder / "config.json"
    blocks = {
        key: [f"UNetRes{kind}" for kind in json.loads(said.read_text())[key]]
        for key in ("down_block_types", "up_block_types")
    }
    extend(said, blocks)
    assert read_model(diffusers_folder).config == expected.config


def test_a_run_of_a_training_script_points_to_its_newest_checkpoint(diffusers_folder):
    run = diffusers_folder.parent / "run"
    for step in (500, 1500, 900):
        (run / f"checkpoint-{step}" / "unet").mkdir(parents=True)
    (run / "checkpoint-9999").write_text("no folder")
    with pytest.raises(FileNotFoundError, match=r"name one of .*/checkpoint-1500$"):
        read_model(run)


def test_an_index_that_does_not_fit_is_named(diffusers_folder):
    sharded(diffusers_folder)
    places = json.loads((diffusers_folder / INDEX).read_text())["weight_map"]
    name = places["conv_in.bias"]
    for wrong, match in (
        ({"weight_map": {"spare": name}}, f"{name} must hold spare"),
        ({"weight_map": {"spare": f"../{name}"}}, "files beside it"),
        ({"weight_map": 3}, "weight_map"),
        ([], "JSON object"),
    ):
        write(diffusers_folder / INDEX, wrong)
        with pytest.raises(ValueError, match=match):
            read_model(diffusers_folder)
    write(diffusers_folder / INDEX, {"weight_map": places})
    (diffusers_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_model(diffusers_folder)


def test_of_a_training_scripts_folder_the_average_is_read(diffusers_folder, expected):
    place = diffusers_folder.parent / "run" / "checkpoint-500"
    (place / "unet").mkdir(parents=True)
    tensors = load_file(diffusers_folder / PLAIN)
    save_file({key: x + 1 for key, x in tensors.items()}, place / "unet" / PLAIN)
    said = (diffusers_folder / "config.json").read_text()
    (place / "unet" / "config.json").write_text(said)
    diffusers_folder.rename(place / "unet_ema")
    extend(place / "unet_ema" / "config.json", EMA)
    scheduler = {"beta_schedule": "squaredcos_cap_v2"}
    write(place.parent / "scheduler" / "scheduler_config.json", scheduler)
    weights = read_model(place)
    assert_same(weights, expected)
    assert weights.step == 500
    assert weights.config.diffusion.schedule.kind == "cosine"


def test_the_scheduler_in_the_folder_itself_goes_first(diffusers_folder):
    """And what lies beside a folder of any name is no part of it."""
    parent = diffusers_folder.parent
    write(parent / "scheduler" / "scheduler_config.json", {"num_train_timesteps": 77})
    assert read_model(diffusers_folder).config.diffusion.schedule.num_steps == 1000
    unet = diffusers_folder.rename(parent / "unet")
    assert read_model(unet).config.diffusion.schedule.num_steps == 77
    write(unet / "scheduler_config.json", {"num_train_timesteps": 50})
    assert read_model(unet).config.diffusion.schedule.num_steps == 50


@pytest.mark.parametrize("given", ["pipeline", "unet"])
def test_a_pipeline_with_another_model_is_refused(given, diffusers_folder, tmp_path):
    unet = diffusers_folder.rename(tmp_path / "unet")
    index = {
        "_class_name": "LDMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "feature_extractor": [None, None],
        "requires_safety_checker": True,
    }
    write(tmp_path / "model_index.json", index)
    read_model(unet)
    extend(tmp_path / "model_index.json", {"vqvae": ["diffusers", "VQModel"]})
    with pytest.raises(ValueError, match=r"model_index\.json .*vqvae \(VQModel\)$"):
        read_model(unet if given == "unet" else tmp_path)


def test_a_folder_without_weights_says_what_is_in_it(diffusers_folder):
    (diffusers_folder / PLAIN).rename(diffusers_folder / "mine.pt")
    with pytest.raises(FileNotFoundError, match=r"it holds config\.json, mine\.pt$"):
        read_model(diffusers_folder)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "there is no file or folder nothing$"),
        ("nothing.safetensors", r"there is no file or folder nothing\.safetensors$"),
        ("runs/typo", "there is no file or folder runs/typo$"),
        ("google/ddpm-cat-256", "hf download google/ddpm-cat-256 --local-dir DIR$"),
    ],
)
def test_what_is_not_there_is_said(path, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for load in (read_model, ddpm_jax.load):
        with pytest.raises(FileNotFoundError, match=said):
            load(path)

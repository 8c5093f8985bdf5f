"""What cannot be read is refused with one line that names the thing."""

import json
import re
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.read import read_model

HO = "ho_ddim_layout_mini"
SIZE = Hints(image_size=16)


def written(path, tensors):
    save_file(tensors, path)
    return path


def refused(path, hints, *words):
    """The one line that refuses, which has all the words."""
    with pytest.raises(ValueError) as caught:
        read_model(path, hints)
    line = str(caught.value)
    for word in words:
        assert word in line
    assert "\n" not in line
    return line


def test_a_truncated_file_is_named(tmp_path, peer_weights):
    path = written(tmp_path / "weights.safetensors", peer_weights(HO))
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, SIZE, str(path), "not a whole safetensors file")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}." * 99])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_foreign_file_is_named(suffix, content, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refused(path, SIZE, str(path), "not a whole")


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    class Alarm:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "weights.npz", a=np.array([Alarm()], dtype=object))
    refused(tmp_path / "weights.npz", SIZE, "weights.npz")
    assert not (tmp_path / "ran").exists()


def test_another_network_is_named_by_its_keys(tmp_path):
    tensors = {"encoder.layer.0.weight": np.zeros(3, np.float32)}
    path = written(tmp_path / "bert.safetensors", tensors)
    refused(path, SIZE, "not the weights of a network", "encoder.layer.0.weight")


def test_every_key_that_does_not_fit_is_listed(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    del tensors["mid.block_1.conv1.bias"], tensors["conv_out.bias"]
    tensors["norm_out.weight"] = np.zeros(5, np.float32)
    tensors["spare.weight"] = tensors["more.bias"] = np.zeros(1, np.float32)
    path = written(tmp_path / "weights.safetensors", tensors)
    line = refused(path, SIZE, "2 missing", "2 left over", "1 of another shape")
    for key in ("mid.block_1.conv1.bias", "conv_out.bias", "spare.weight", "more.bias"):
        assert key in line
    assert "norm_out.weight: (5,), not (32,)" in line


def test_integers_are_no_weights(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    tensors["norm_out.weight"] = tensors["norm_out.weight"].astype(np.int8)
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, "norm_out.weight", "int8")


def test_half_precision_is_read(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    tensors["norm_out.weight"] = tensors["norm_out.weight"].astype(np.float16)
    path = written(tmp_path / "weights.safetensors", tensors)
    scale = read_model(path, SIZE).params["norm_out"]["scale"]
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, tensors["norm_out.weight"])


def test_half_a_network_is_named(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    del tensors["down.1.block.0.conv1.weight"]
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, "down.1.block.0.conv1.weight")


@pytest.mark.parametrize(
    ("hints", "words"),
    [
        (Hints(), ["image_size"]),
        (Hints(image_size=16, attention_order="new"), ["attention_order", "'ho'"]),
        (Hints(image_size=16, null_label=True), ["null_label"]),
        (Hints(image_size=16, variance="learned_range"), ["6 output channels", "3"]),
        (Hints(image_size=15), ["data.image_size", "15"]),
        (Hints(image_size=16, num_groups=5), ["network.num_groups"]),
        (Hints(image_size=16, schedule="cosine", start=0.1), ["schedule.start"]),
    ],
)
def test_options_that_do_not_fit_are_named(hints, words, tmp_path, peer_weights):
    path = written(tmp_path / "weights.safetensors", peer_weights(HO))
    refused(path, hints, *words)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("mid_block_type", None),
        ("add_attention", False),
        ("class_embed_type", "timestep"),
        ("act_fn", "gelu"),
        ("down_block_types", ["SkipDownBlock2D"] * 4),
        ("up_block_types", ["UpBlock2D"] * 4),
        ("block_out_channels", [16, 24, 32, 32]),
        ("resnet_time_scale_shift", "spatial"),
        ("downsample_padding", 2),
        ("attn_norm_num_groups", 4),
        ("time_embedding_dim", 100),
        ("sample_size", [16, 32]),
        ("in_channels", 4),
        ("cross_attention_dim", 768),
        ("_class_name", "UNet2DConditionModel"),
    ],
)
def test_an_option_of_another_network_is_named(option, value, diffusers_folder):
    said = diffusers_folder / "config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {option: value}))
    word = {"_class_name": value, "in_channels": "4 channels"}.get(option, option)
    refused(diffusers_folder, Hints(), word)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beta_schedule", "laplace"),
        ("trained_betas", [0.1, 0.2]),
        ("prediction_type", "flow"),
        ("variance_type", "learned"),
        ("thresholding", True),
        ("clip_sample_range", 2.0),
    ],
)
def test_an_option_of_another_diffusion_is_named(option, value, diffusers_folder):
    said = diffusers_folder / "scheduler_config.json"
    said.write_text(json.dumps({option: value}))
    refused(diffusers_folder, Hints(), option, str(said))


@pytest.mark.parametrize("content", ["{", "[]", '{"block_out_channels": "many"}'])
def test_a_config_that_is_none_is_named(content, diffusers_folder):
    (diffusers_folder / "config.json").write_text(content)
    refused(diffusers_folder, Hints(), "config.json")


def test_a_config_of_other_weights_is_a_list_of_keys(diffusers_folder):
    said = diffusers_folder / "config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"layers_per_block": 3}))
    refused(diffusers_folder, Hints(), "missing", "down_blocks.0.resnets.2.conv1.bias")


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors"])
def test_what_is_not_there_is_named(name, tmp_path):
    with pytest.raises((OSError, ValueError), match=re.escape(name)):
        read_model(tmp_path / name)


def test_weights_of_diffusers_need_their_config(diffusers_folder):
    (diffusers_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        read_model(diffusers_folder)


def test_without_pytorch_its_files_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02}.")
    with pytest.raises(ImportError, match=r"ddpm_jax\[torch\]"):
        read_model(tmp_path / "weights.pt")


def test_the_numbers_are_those_of_the_file(diffusers_folder):
    """Transposed, not merely reshaped: what all the refusals are about."""
    weights = load_file(diffusers_folder / "diffusion_pytorch_model.safetensors")
    kernel = read_model(diffusers_folder).params["conv_in"]["kernel"]
    np.testing.assert_array_equal(
        kernel, weights["conv_in.weight"].transpose(2, 3, 1, 0)
    )

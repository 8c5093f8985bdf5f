"""What cannot be read is refused with one line that names the thing."""

import json
import re
import sys
import time
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.files import read_state_dict
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


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\u202eback", "a" * 301])
def test_a_name_that_cannot_be_shown_is_refused(name, tmp_path):
    path = written(tmp_path / "weights.safetensors", {name: np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match=r"weights.*printable characters") as caught:
        read_state_dict(path)
    assert str(caught.value).isprintable()


def test_integers_are_no_weights(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    tensors["norm_out.weight"] = tensors["norm_out.weight"].astype(np.int8)
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, "norm_out.weight", "int8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_no_weights(value, tmp_path, peer_weights):
    tensors = peer_weights(HO)
    key = "mid.attn_1.q.weight"
    tensors[key].flat[:3] = value
    path = written(tmp_path / "weights.safetensors", tensors)
    line = refused(path, SIZE, str(path), key, "3 of 4,096 are NaN or infinite")
    assert "finite numbers" in line


def test_half_precision_is_read(tmp_path, peer_weights):
    tensors = peer_weights(HO)
    tensors["norm_out.weight"] = tensors["norm_out.weight"].astype(np.float16)
    path = written(tmp_path / "weights.safetensors", tensors)
    scale = read_model(path, SIZE).params["norm_out"]["scale"]
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, tensors["norm_out.weight"])


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("temb.dense.0.weight", ()),
        ("temb.dense.0.weight", (3,)),
        ("temb.dense.0.weight", (16, 0)),
        ("conv_in.weight", (32,)),
        ("conv_out.weight", ()),
        ("down.0.block.0.conv1.weight", (0, 3, 3, 3)),
    ],
)
def test_a_tensor_of_another_kind_is_named(key, shape, tmp_path, peer_weights):
    tensors = {**peer_weights(HO), key: np.zeros(shape, np.float32)}
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, str(path), key, str(shape))


def test_8_bits_are_no_weights(tmp_path):
    """safetensors has them, and NumPy has not."""
    key = "temb.dense.0.weight"
    entry = {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]}
    header = json.dumps({key: entry}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights.*{key}.*F8_E4M3"):
        read_state_dict(path).tensors[key].read()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_a_pointer_is_no_file_of_weights(name, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
    (tmp_path / name).write_text(pointer)
    refused(tmp_path / name, SIZE, name, "git lfs pull")


@pytest.mark.parametrize(
    ("prefixes", "taken"),
    [
        (("", "ema."), "ema."),
        (("model.", "model.ema."), "model.ema."),
        (("shadow.module.", "net."), "shadow.module."),
        (("ema.", "ema.zero."), "ema."),
    ],
)
def test_of_many_networks_an_average_is_read(prefixes, taken, tmp_path, peer_weights):
    tensors = {
        f"{prefix}{key}": x + (prefix != taken)
        for prefix in prefixes
        for key, x in peer_weights(HO).items()
    }
    path = written(tmp_path / "weights.safetensors", tensors)
    found = read_state_dict(path)
    assert found.entry == f"{taken}*"
    (other,) = (prefix for prefix in prefixes if prefix != taken)
    assert found.others == (f"{other}*" if other else "the file's own names",)
    kernel = peer_weights(HO)["conv_in.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(
        read_model(path, SIZE).params["conv_in"]["kernel"], kernel
    )


def test_a_file_of_very_many_networks_is_refused_at_once(tmp_path):
    key = "temb.dense.0.weight"
    tensors = {f"part{i}.{key}": np.zeros((1, 1), np.float32) for i in range(20_000)}
    path = written(tmp_path / "weights.safetensors", tensors)
    began = time.perf_counter()
    refused(path, SIZE, str(path), "20000 networks")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("suffix", ["pt", "bin", "npz"])
def test_safetensors_by_another_name_are_said_to_be_that(
    suffix, tmp_path, peer_weights
):
    path = tmp_path / f"weights.{suffix}"
    save_file(peer_weights(HO), path)
    refused(path, SIZE, str(path), "rename it to end in .safetensors")


@pytest.mark.parametrize(
    "prefix",
    [*("module.", "ema_model.", "model.diffusion_model.", "_orig_mod.module.")],
)
def test_what_wraps_a_network_is_taken_off(prefix, tmp_path, peer_weights):
    tensors = {f"{prefix}{key}": x for key, x in peer_weights(HO).items()}
    others = {
        "logvar": np.zeros(9),
        **{f"online_{key}": x for key, x in tensors.items()},
    }
    path = written(tmp_path / "weights.safetensors", tensors | others)
    weights = read_model(path, SIZE)
    assert weights.entry == f"{prefix}*"
    kernel = peer_weights(HO)["conv_in.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(weights.params["conv_in"]["kernel"], kernel)


def test_a_latent_model_is_named(tmp_path, peer_weights):
    tensors = {f"model.diffusion_model.{k}": x for k, x in peer_weights(HO).items()}
    tensors["first_stage_model.encoder.conv_in.bias"] = np.zeros(3, np.float32)
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, str(path), "latent", "first_stage_model.encoder.conv_in.bias")


def test_a_network_of_super_resolution_is_named(tmp_path, peer_weights):
    tensors = peer_weights("guided_unet_classcond_legacyattn")
    key = "input_blocks.0.0.weight"
    tensors[key] = tensors[key].repeat(2, axis=1)
    path = written(tmp_path / "weights.safetensors", tensors)
    refused(path, SIZE, str(path), "super-resolution")


def test_a_classifier_is_named(tmp_path, peer_weights):
    tensors = peer_weights("guided_unet_classcond_legacyattn")
    encoder = {k: x for k, x in tensors.items() if not k.startswith("output_blocks.")}
    path = written(tmp_path / "weights.safetensors", encoder)
    refused(path, SIZE, str(path), "classifier")


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
        (Hints(image_size=16, num_heads=0), ["num_heads must be at least 1; got 0"]),
        (Hints(image_size=16, norm_eps=-1.0), ["norm_eps must be positive; got -1"]),
        (Hints(image_size=16, num_heads=2, head_channels=8), ["give one"]),
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
        ("block_out_channels", [16, "many"]),
        ("norm_num_groups", 5),
        ("norm_num_groups", None),
        ("attention_head_dim", 5),
        ("attention_head_dim", [8, 8]),
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
        ("clip_sample_range", -2.0),
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


def test_every_option_is_named(diffusers_folder):
    said = diffusers_folder / "config.json"
    values = json.loads(said.read_text())
    said.write_text(json.dumps(values | {"foo": 1, "bar": 2}))
    refused(diffusers_folder, Hints(), str(said), "foo, bar")
    wrong = {"act_fn": "gelu", "sample_size": [16, 32], "time_embedding_dim": 100}
    said.write_text(json.dumps(values | wrong))
    refused(diffusers_folder, Hints(), str(said), *wrong)


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0", "2.11.0a0+git1234"])
def test_an_old_pytorch_is_not_trusted_with_files(version, tmp_path, monkeypatch):
    def load(*arguments, **options):
        raise ValueError("it was trusted")

    torch = types.SimpleNamespace(__version__=version, load=load)
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "weights.pt").write_bytes(b"PK")
    with pytest.raises((ImportError, ValueError)) as caught:
        read_model(tmp_path / "weights.pt")
    new = version.startswith("2.11")
    said = "it was trusted" if new else rf"torch>=2\.11.*got torch {version[:4]}"
    assert re.search(said, str(caught.value))


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

"""PyTorch's files: tensors alone, wherever training scripts put them."""

import os

import jax
import numpy as np
import pytest

from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.files import read_state_dict
from ddpm_jax.interop.read import read_model

torch = pytest.importorskip("torch")

HO = "ho_ddim_layout_mini"


@pytest.fixture(scope="module")
def state_dict(peer_weights):
    return {key: torch.from_numpy(x) for key, x in peer_weights(HO).items()}


def other(state_dict):
    return {key: tensor + 1 for key, tensor in state_dict.items()}


def averaged(state_dict, kind):
    """What a training script saves whose averaged weights are `state_dict`."""
    raw, optimizer = other(state_dict), {"state": {}, "param_groups": [{"lr": 1e-4}]}
    return {
        "plain": state_dict,
        "ddim": [raw, optimizer, 7, 790_000, state_dict],
        "ddim without average": [state_dict, optimizer, 7, 790_000],
        "ddim, longer": [raw, optimizer, 7, raw, state_dict, 3],
        "ddim, a number last": [state_dict, optimizer, 7, 790_000, 3],
        "ema": {"model": raw, "ema": state_dict, "step": 3},
        "shadow": {"model": raw, "ema": {"shadow": state_dict, "decay": 0.99}},
        "ema without tensors": {"ema": {"decay": 0.99}, "model": state_dict},
        "averager": {
            "model": raw,
            "ema": {"initted": torch.tensor(True)}
            | {f"online_model.{key}": x for key, x in raw.items()}
            | {f"ema_model.{key}": x for key, x in state_dict.items()},
        },
        "nested": {"epoch": 1, "state_dict": {"model": state_dict}},
        "parallel": {f"module.{key}": x for key, x in state_dict.items()},
        "compiled": {f"_orig_mod.module.{key}": x for key, x in state_dict.items()},
        "double": {key: tensor.double() for key, tensor in state_dict.items()},
        "parameters": {key: torch.nn.Parameter(x) for key, x in state_dict.items()},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("plain", "ddim", "ddim without average", "ddim, longer"),
        *("ddim, a number last", "ema", "shadow", "ema without tensors", "averager"),
        *("nested", "parallel", "compiled", "double", "parameters"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_the_averaged_weights_are_found(kind, new, state_dict, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(averaged(state_dict, kind), path, _use_new_zipfile_serialization=new)
    found = read_state_dict(path).tensors
    assert found.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        array = found[key].read()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.numpy())


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("plain", ""),
        ("ddim", "[4]"),
        ("shadow", "['ema']['shadow']"),
        ("averager", "['ema'] ema_model.*"),
    ],
)
def test_it_says_which_entry_it_took(kind, entry, state_dict, tmp_path):
    torch.save(averaged(state_dict, kind), tmp_path / "weights.pt")
    assert read_state_dict(tmp_path / "weights.pt").entry == entry


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("conv_out.bias", torch.zeros(3).to_sparse()),
        ("conv_out.bias", torch.zeros(3, device="meta")),
        ("conv_out.bias", torch.zeros(3, dtype=torch.complex64)),
        (0, torch.zeros(3)),
    ],
    ids=["sparse", "meta", "complex", "integer key"],
)
def test_a_tensor_that_cannot_be_read_is_named(key, tensor, state_dict, tmp_path):
    torch.save({**state_dict, key: tensor}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=rf"weights\.pt.*{key}"):
        read_model(tmp_path / "weights.pt", Hints(image_size=16))


def test_half_precision_is_read(state_dict, tmp_path):
    half = {key: tensor.bfloat16() for key, tensor in state_dict.items()}
    torch.save(half, tmp_path / "weights.ckpt")
    found = read_state_dict(tmp_path / "weights.ckpt").tensors["conv_in.bias"].read()
    np.testing.assert_array_equal(found, half["conv_in.bias"].float().numpy())


def test_it_is_the_model_that_safetensors_holds(state_dict, peer_weights, tmp_path):
    from safetensors.numpy import save_file

    torch.save(state_dict, tmp_path / "weights.pth")
    save_file(peer_weights(HO), tmp_path / "weights.safetensors")
    one, two = (
        read_model(tmp_path / f"weights.{suffix}", Hints(image_size=16))
        for suffix in ("pth", "safetensors")
    )
    assert one.config == two.config
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


class Alarm:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.parametrize("new", [True, False])
def test_code_is_refused_and_not_run(new, state_dict, tmp_path):
    path = tmp_path / "weights.bin"
    content = {**state_dict, "x": Alarm(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"weights\.bin .*system.*not run") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("new", [True, False])
def test_a_truncated_file_is_named(new, state_dict, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(state_dict, path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"weights\.pt") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_pickle_is_not_said_to_be_code(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"weights\.pt cannot be read") as caught:
        read_state_dict(tmp_path / "weights.pt")
    assert "code" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, "text", {}])
def test_what_is_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt"):
        read_state_dict(tmp_path / "weights.pt")

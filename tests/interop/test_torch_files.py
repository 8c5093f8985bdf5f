"""PyTorch's files: tensors alone, wherever training scripts put them."""

import os

import jax
import numpy as np
import pytest

from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.read import read_model
from ddpm_jax.interop.tensors import read_state_dict

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
        "ema": {"model": raw, "ema": state_dict, "step": 3},
        "nested": {"epoch": 1, "state_dict": {"model": state_dict}},
        "parallel": {f"module.{key}": x for key, x in state_dict.items()},
        "compiled": {f"_orig_mod.module.{key}": x for key, x in state_dict.items()},
        "double": {key: tensor.double() for key, tensor in state_dict.items()},
        "parameters": {key: torch.nn.Parameter(x) for key, x in state_dict.items()},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("plain", "ddim", "ddim without average", "ema", "nested", "parallel"),
        *("compiled", "double", "parameters"),
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_the_averaged_weights_are_found(kind, new, state_dict, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(averaged(state_dict, kind), path, _use_new_zipfile_serialization=new)
    found = read_state_dict(path)
    assert found.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        array = found[key].read()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.numpy())


def test_half_precision_is_read(state_dict, tmp_path):
    half = {key: tensor.bfloat16() for key, tensor in state_dict.items()}
    torch.save(half, tmp_path / "weights.ckpt")
    found = read_state_dict(tmp_path / "weights.ckpt")["conv_in.bias"].read()
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
    with pytest.raises(ValueError, match=r"weights\.bin .*not run") as caught:
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


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, "text", {}])
def test_what_is_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt"):
        read_state_dict(tmp_path / "weights.pt")

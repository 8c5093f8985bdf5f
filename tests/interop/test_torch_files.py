"""PyTorch's files: tensors alone, wherever training scripts put them."""

import os
import pickle

import jax
import numpy as np
import pytest

from ddpm_jax.interop.__main__ import main
from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.files import read_state_dict
from ddpm_jax.interop.read import read_model

torch = pytest.importorskip("torch")

HO = "ho_ddim_layout_mini"
OF_TORCH_EMA = ("['ema']['collected_params']", "['model'] module.*")


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
        "state_dict_ema": {"state_dict": raw, "state_dict_ema": state_dict},
        "ema_state": {"model": raw, "ema_state": {"decay": 0.9, "params": state_dict}},
        "ema_weights": {"net": raw, "ema_weights": state_dict},
        "many rates": {
            "model": raw,
            "ema_rate_0.999": other(raw),
            "ema_rate_0.9999": state_dict,
            "ema_rate_0.99": other(state_dict),
        },
        "upper case": {"model": raw, "optimizer": optimizer, "netEMA": state_dict},
        "before the model": {"averaged_model": {"net": state_dict}, "model": raw},
        "beside the keys": {**raw, "ema": state_dict},
        "swa": {
            "model": raw,
            "swa_model": {"n_averaged": torch.tensor(3)}
            | {f"module.{key}": x for key, x in state_dict.items()},
        },
        "one dict": {f"net.{key}": x for key, x in raw.items()}
        | {f"net_ema.{key}": x for key, x in state_dict.items()},
        "torch_ema": {
            "model": {f"module.{key}": x for key, x in raw.items()},
            "ema": {
                "decay": 0.9999,
                "num_updates": 7,
                "shadow_params": list(state_dict.values()),
                "collected_params": list(raw.values()),
            },
        },
        "no dots": {
            "state_dict": {f"model.net.{key}": x for key, x in raw.items()}
            | {"model_ema.decay": torch.tensor(0.9)}
            | {f"model_ema.net{k.replace('.', '')}": x for k, x in state_dict.items()}
        },
        "underscores": {
            "model": raw,
            "ema": {key.replace(".", "_"): x for key, x in state_dict.items()},
        },
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
        *("state_dict_ema", "ema_state", "ema_weights", "many rates", "upper case"),
        *("before the model", "beside the keys", "swa", "one dict", "torch_ema"),
        *("no dots", "underscores"),
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
    ("kind", "entry", "others"),
    [
        ("plain", "", ()),
        ("ddim", "[4]", ("[0]",)),
        ("shadow", "['ema']['shadow']", ("['model']",)),
        ("averager", "['ema'] ema_model.*", ("['ema'] online_model.*", "['model']")),
        ("torch_ema", "['ema']['shadow_params']", OF_TORCH_EMA),
        ("no dots", "['state_dict'] model_ema.*", ("['state_dict'] model.net.*",)),
        ("beside the keys", "['ema']", ("the file's own names",)),
    ],
)
def test_it_says_which_entry_it_took_and_which_not(
    kind, entry, others, state_dict, tmp_path
):
    torch.save(averaged(state_dict, kind), tmp_path / "weights.pt")
    found = read_state_dict(tmp_path / "weights.pt")
    assert (found.entry, found.others) == (entry, others)


def test_the_report_names_what_was_not_taken(state_dict, tmp_path, capsys):
    torch.save(averaged(state_dict, "many rates"), tmp_path / "w.pt")
    words = f"import {tmp_path}/w.pt --workdir {tmp_path}/run --image-size 16"
    main(words.split())
    lines = capsys.readouterr().out.splitlines()
    assert f"read {tmp_path}/w.pt ['ema_rate_0.9999']: layout 'ho'" in lines[0]
    left = "not taken: ['ema_rate_0.999'], ['ema_rate_0.99'], ['model']"
    assert lines[1] == left


def test_an_average_of_other_names_is_not_passed_over_in_silence(state_dict, tmp_path):
    strange = {f"x{i}": tensor for i, tensor in enumerate(state_dict.values())}
    torch.save({"model": state_dict, "ema": strange}, tmp_path / "weights.pt")
    found = read_state_dict(tmp_path / "weights.pt")
    assert found.entry == "['model']"
    assert found.others == ("['ema'] (of other names)",)


@pytest.mark.parametrize("kind", ["alone", "of another model", "diffusers"])
def test_an_average_without_names_is_refused(kind, state_dict, tmp_path):
    shadow = {"decay": 0.9999, "shadow_params": list(state_dict.values())}
    raw = dict(list(state_dict.items())[:-1])
    content = {
        "alone": {"ema": shadow},
        "of another model": {"model": raw, "ema": shadow},
        "diffusers": {**shadow, "optimization_step": 3, "use_ema_warmup": False},
    }[kind]
    torch.save(content, tmp_path / "weights.pt")
    count = len(state_dict)
    rule = rf"weights\.pt: .*shadow_params'. is an average of {count} tensors without"
    with pytest.raises(ValueError, match=rule) as caught:
        read_model(tmp_path / "weights.pt", Hints(image_size=16))
    assert "tensor(" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_state_of_an_optimizer_is_no_network(state_dict, tmp_path):
    """OpenAI's opt*.pt; and Adam's averages of gradients are not the weights'."""
    params = [torch.nn.Parameter(tensor.clone()) for tensor in state_dict.values()]
    optimizer = torch.optim.AdamW(params)
    sum(param.sum() for param in params).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "opt000007.pt")
    rule = r"opt000007\.pt holds the state of an optimizer .* ema_\*\.pt"
    with pytest.raises(ValueError, match=rule):
        read_model(tmp_path / "opt000007.pt")
    both = {"optimizer": optimizer.state_dict(), "model": state_dict}
    torch.save(both, tmp_path / "weights.pt")
    found = read_state_dict(tmp_path / "weights.pt")
    assert (found.entry, found.others) == ("['model']", ())
    both = {"optimizer": optimizer.state_dict(), "x": {"encoder.bias": torch.zeros(3)}}
    torch.save(both, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"1 tensors: encoder\.bias"):
        read_model(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (
            ("model.init_conv.weight", "model.downs.0.0.block1.proj.weight"),
            "lucidrains",
        ),
        (("ema_model.model.downs.0.0.block1.proj.weight", "initted"), "lucidrains"),
        (("module.all_modules.0.weight", "module.sigmas"), "score_sde"),
        (("all_modules.0.W", "all_modules.3.Conv_0.weight"), "score_sde"),
        (("time.1.weight", "mid.0.resblocks.conv1.weight"), "rosinality"),
        (("time_embedding.timembedding.1.weight",), "w86763777"),
        (("x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight"), "DiT"),
    ],
)
def test_networks_that_are_often_met_are_refused_by_name(keys, name, tmp_path):
    weights = {key: torch.zeros(2, 2) for key in keys}
    content = {"ema": {"shadow_params": [torch.zeros(2, 2)]}, "model": weights}
    torch.save(content, tmp_path / "weights.pt")
    rule = rf"weights\.pt: these are the weights of {name}.*another network"
    with pytest.raises(ValueError, match=rule) as caught:
        read_model(tmp_path / "weights.pt", Hints(image_size=16))
    assert "\n" not in str(caught.value) and keys[0] not in str(caught.value)


def pickled(state_dict, kind, path):
    if kind == "TorchScript":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    elif kind == "arrays":
        arrays = {key: tensor.numpy() for key, tensor in state_dict.items()}
        path.write_bytes(pickle.dumps(arrays))
    else:
        path.write_bytes(pickle.dumps(state_dict, protocol=int(kind)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("TorchScript", "a TorchScript program"),
        *(("arrays", "a plain pickle"), ("4", "a plain pickle"), ("2", "code")),
    ],
)
def test_no_advice_to_read_without_care_is_passed_on(kind, word, state_dict, tmp_path):
    path = tmp_path / "weights.pt"
    pickled(state_dict, kind, path)
    with pytest.raises(ValueError, match=word) as caught:
        read_model(path)
    line = str(caught.value)
    assert str(path) in line and "not run" in line
    for advice in ("weights_only", "trust", "safe_globals", "False", "http"):
        assert advice not in line


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

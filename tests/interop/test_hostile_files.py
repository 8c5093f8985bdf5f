"""What the benchmark's hostile files are met with: one line that names the file.

`benchmarks/hostile_weights.py` reads them all in a process that it watches, and
thousands of damaged files beside them; here are those that are cheap to make.
"""

import importlib.util
import json
import pathlib
import re
import sys
import traceback

import jax
import numpy as np
import pytest

from ddpm_jax.interop import load
from ddpm_jax.interop.read import read_model

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
FORMS = ("npz", "safetensors", "diffusers", "pt", "pt before 1.6")
COSTLY = ("20 MB", "160 MB", "million", "5,000", "1,000,000", "10,000", "100,000")


@pytest.fixture(scope="module")
def hostile():
    spec = importlib.util.spec_from_file_location(
        "hostile_files", BENCHMARKS / "hostile_files.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its tuples look for it there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def written(folder, files):
    for path, content in files.contents.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    return folder / files.path


def refused(path, hints):
    """The line that refuses what lies at `path`."""
    with pytest.raises((ValueError, OSError)) as caught:
        read_model(path, hints)
    line = str(caught.value)
    assert str(path) in line
    shown = "".join(traceback.format_exception(caught.value))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", shown)
    assert line.isprintable() and len(line) < 5000
    return line


def torch_for(form):
    return pytest.importorskip("torch") if form.startswith("pt") else None


@pytest.mark.parametrize("form", FORMS)
def test_hostile_files_are_refused_by_name(form, hostile, tmp_path):
    seen = 0
    for name, files in hostile.cases(torch_for(form), form):
        if any(word in name for word in COSTLY):
            continue
        try:
            refused(written(tmp_path, files), hostile.HINTS[files.layout])
        except BaseException as error:
            raise AssertionError(f"{name}: {error!r}") from error
        seen += 1
    assert seen > 25


@pytest.mark.parametrize("form", FORMS)
def test_the_good_files_are_read(form, hostile, tmp_path):
    files = hostile.good_files(torch_for(form))[form]
    params = read_model(written(tmp_path, files), hostile.HINTS[files.layout]).params
    kernel = hostile.weights(files.layout)["conv_in.weight"].transpose(2, 3, 1, 0)
    assert (params["conv_in"]["kernel"] == kernel).all()


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_a_bit_that_flips_changes_no_number(form, hostile, tmp_path):
    """Both are zip files, which have sums; what lies between members is idle."""
    files = hostile.good_files(torch_for(form))[form]
    path = written(tmp_path, files)
    data, good = path.read_bytes(), read_model(path, hostile.HINTS["ho"]).params
    noticed = 0
    for place in range(100, len(data), len(data) // 12):
        damaged = bytearray(data)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            params = read_model(path, hostile.HINTS["ho"]).params
        except ValueError:
            noticed += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, params, good)
    assert noticed > 3


def test_a_storage_longer_than_its_record_is_not_filled_from_beside_it(
    hostile, tmp_path
):
    """PyTorch maps as many bytes as the tensor asks for, whatever they are."""
    good = hostile.good_files(torch_for("pt"))["pt"].contents["x.pt"]
    short = hostile.directory_edited(good, "/data/0", size=4, packed=4, crc=0)
    path = tmp_path / "x.pt"
    path.write_bytes(short)
    assert "conv_in.bias must have 32 bytes" in refused(path, hostile.HINTS["ho"])


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("layers_per_block", 10**7, "network.num_blocks must be in 1..1000; got"),
        ("layers_per_block", 1000, "more than"),
        (
            "block_out_channels",
            [10**12],
            "channels must be a number of 32 bits",
        ),
        ("block_out_channels", [10**9], "more than"),
        ("down_block_types", None, "down_block_types must be a list"),
        ("num_class_embeds", 10**12, "data.num_classes must be a number of 32 bits"),
        ("num_class_embeds", 10**9, "more than"),
    ],
)
def test_a_network_is_not_traced_that_its_file_cannot_fill(
    option, value, words, hostile, tmp_path, monkeypatch
):
    files = hostile.good_files()["diffusers"]
    path = written(tmp_path, files)
    values = json.loads(files.contents["m/config.json"])
    (path / "config.json").write_text(json.dumps({**values, option: value}))
    monkeypatch.setattr(load, "parameter_shapes", None)
    assert words in refused(path, hostile.HINTS["diffusers"])

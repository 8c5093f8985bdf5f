"""Peers' files, small and whole: key lists that peers published, weights by a rule."""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.interop import load

GOLDEN = Path(__file__).parents[1] / "golden"


def rule(key, shape):
    """The weights of `tests/golden/networks_peers.npz`, made from their names."""
    seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
    z = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if key.endswith("bias"):
        return np.float32(0.1) * z
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z
    return z * np.float32(1 / math.sqrt(math.prod(shape[1:])))


@pytest.fixture(autouse=True, scope="session")
def shapes_are_found_once():
    """Those of a network's parameters, for which it is traced."""
    found = functools.cache(load.parameter_shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "parameter_shapes", found)
        yield


def shapes_of(lines):
    pairs = (line.split() for line in lines.tolist())
    return {key: tuple(map(int, shape.split(","))) for key, shape in pairs}


@pytest.fixture(scope="session")
def peer_weights():
    """(name) -> the whole state dict of a peer's small network, NCHW."""

    def make(name):
        with np.load(GOLDEN / "interop_keys.npz") as lists:
            shapes = shapes_of(lists[name])
        return {key: rule(key, shape) for key, shape in shapes.items()}

    return make


@pytest.fixture(scope="session")
def diffusers_configs():
    """name -> a published config.json of diffusers."""
    return json.loads((GOLDEN / "interop_diffusers.json").read_text())


@pytest.fixture
def diffusers_folder(tmp_path, peer_weights, diffusers_configs):
    """A UNet2DModel's folder, as `save_pretrained` leaves it."""
    name = "diffusers_unet2d_cifar_mini"
    folder = tmp_path / "unet2d"
    folder.mkdir()
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file(peer_weights(name), weights)
    (folder / "config.json").write_text(json.dumps(diffusers_configs[name]))
    return folder

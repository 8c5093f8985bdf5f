"""A file of weights as the state dict of one network, whatever kind of file it is."""

import pathlib
import re
from collections.abc import Callable
from functools import partial

import numpy as np

from ddpm_jax.interop import npz_files, tensors, torch_files
from ddpm_jax.interop.averages import Choice, Part, choose
from ddpm_jax.interop.tensors import StateDict, Tensor
from ddpm_jax.text import cause, reason

_FLAT: dict[str, Callable[[pathlib.Path], StateDict]] = {
    ".safetensors": tensors.read_safetensors,
    ".npz": npz_files.read_npz,
    ".bin": torch_files.read_flat,  # of many; one alone may hold more
}
_TORCH = (".pt", ".pth", ".ckpt", ".bin")
# What diffusers calls the list of a model's many files, and of a variant's.
_INDEX = re.compile(r".*(\.safetensors|\.bin)\.index(\.[^.]+)?\.json")
_KNOWN = (".safetensors", ".safetensors.index.json", ".npz", *_TORCH, ".bin.index.json")


def read_state_dict(path: pathlib.Path | str) -> Choice:
    """The state dict of a file, by the ending of its name.

    `.safetensors` and `.npz` are read as they are; `.pt`, `.pth`, `.ckpt` and `.bin` by
    PyTorch, which loads tensors alone; and many files by the index that lists them. Of
    a training script's file come the averaged weights where it has them. Wrappers'
    prefixes ("module.") are taken off.

    Raises:
        ValueError: if the file is truncated, of another format, or holds no tensors.
        OSError: if it cannot be opened.
        ImportError: if the library that reads it is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    index = _INDEX.fullmatch(path.name)
    ending = next((ending for ending in _KNOWN if path.name.endswith(ending)), None)
    if index is None and ending is None:
        raise ValueError(
            f"{path} must end in one of {', '.join(_KNOWN)}, to say how it is to be "
            "read"
        )
    if ending in _TORCH:
        _check_beginning(path)
        chosen = torch_files.read(path)
    else:
        held = (
            tensors.read_shards(path, partial(_read_flat, index[1]))
            if index
            else _read_flat(path.suffix, path)
        )
        if not held:
            raise ValueError(f"{path} holds no tensors")
        chosen = choose([Part("", held)])
    named = {key: _named(path, key, tensor) for key, tensor in chosen.tensors.items()}
    return chosen._replace(tensors=named)


def _read_flat(ending: str, path: pathlib.Path) -> StateDict:
    """The tensors of a file that is no more than a state dict."""
    _check_beginning(path)
    return _FLAT[ending](path)


def _named(path: pathlib.Path, key: str, tensor: Tensor) -> Tensor:
    """The tensor; whatever fails where it is read, one line names file and tensor."""

    def read() -> np.ndarray:
        try:
            return tensor.read()
        except Exception as error:  # of zipfile, zlib, safetensors, PyTorch and NumPy
            if isinstance(error, ValueError) and str(path) in str(error):
                raise
            raise ValueError(
                f"{path}: the tensor {key} cannot be read: {reason(error)}"
            ) from cause(error)

    return tensor._replace(read=read)


def _check_beginning(path: pathlib.Path) -> None:
    """Refuses what the first bytes say to be something else than the name says."""
    with path.open("rb") as file:
        beginning = file.read(24)
    if beginning.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is not the weights but git-LFS's note of where they are: fetch "
            "them with `git lfs pull`, or download the file itself"
        )
    # A safetensors file: the length of its header, and a header of JSON.
    length = int.from_bytes(beginning[:8], "little")
    holds_safetensors = beginning[8:10] == b'{"' and length <= path.stat().st_size
    if holds_safetensors and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} holds safetensors: rename it to end in .safetensors, and it is "
            "read as such"
        )

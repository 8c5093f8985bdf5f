"""A file of weights as the state dict of one network, whatever kind of file it is."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.interop import npz_files, tensors, torch_files
from ddpm_jax.interop.structure import prefix_of, unwrapped
from ddpm_jax.interop.tensors import StateDict, Tensor
from ddpm_jax.text import reason

_READERS: dict[str, Callable[[pathlib.Path], StateDict]] = {
    ".safetensors": tensors.read_safetensors,
    ".safetensors.index.json": tensors.read_shards,
    ".npz": npz_files.read_npz,
}
_TORCH = (".pt", ".pth", ".ckpt", ".bin")


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: the network's.
        entry: where in the file they are; "" where the file is their state dict.
    """

    tensors: StateDict
    entry: str


def read_state_dict(path: pathlib.Path | str) -> Contents:
    """The state dict of a file, by the ending of its name.

    `.safetensors` (one file, or the index of many) and `.npz` are read as they are;
    `.pt`, `.pth`, `.ckpt` and `.bin` by PyTorch, which loads tensors alone. Of a
    training script's file come the averaged weights where it has them. Wrappers'
    prefixes ("module.") are taken off.

    Raises:
        ValueError: if the file is truncated, of another format, or holds no tensors.
        OSError: if it cannot be opened.
        ImportError: if the library that reads it is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    known = (*_READERS, *_TORCH)
    ending = next((ending for ending in known if path.name.endswith(ending)), None)
    if ending is None:
        raise ValueError(
            f"{path} must end in one of {', '.join(known)}, to say how it is to be read"
        )
    _check_beginning(path)
    if ending in _TORCH:
        held, entry = torch_files.read(path)
    else:
        held, entry = _READERS[ending](path), ""
    if not held:
        raise ValueError(f"{path} holds no tensors")
    held = {key: _named(path, key, tensor) for key, tensor in held.items()}
    if prefix := prefix_of(held):
        return Contents(unwrapped(held, prefix), f"{entry} {prefix}*".strip())
    return Contents(held, entry)


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
            ) from error

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

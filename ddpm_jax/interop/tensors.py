"""Files of weights as state dicts, without running anything that they hold.

A state dict is {key: `Tensor`}: shapes are known at once, and numbers are read when
they are asked for.
"""

import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = {".safetensors", ".npz", ".pt", ".pth", ".ckpt", ".bin"}

# Where a training script's file keeps its weights, the best ones first.
_AVERAGES = ("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema")
_NESTED = (*_AVERAGES, "state_dict", "model_state_dict", "model", "unet", "net")
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


class Tensor(NamedTuple):
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # float32 (or the file's own type of integers)


StateDict = dict[str, Tensor]


def read_state_dict(path: pathlib.Path | str) -> StateDict:
    """The state dict of a file, by the ending of its name.

    `.safetensors` and `.npz` are read as they are; `.pt`, `.pth`, `.ckpt` and `.bin` by
    PyTorch, which loads tensors alone. Of a training script's file come the averaged
    weights where it has them. Wrappers' prefixes ("module.") are taken off.

    Raises:
        ValueError: if the file is truncated, of another format, or holds no tensors.
        OSError: if it cannot be opened.
        ImportError: if the library that reads it is not installed.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} must end in one of {', '.join(sorted(SUFFIXES))}, to say how it "
            "is to be read"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix == ".npz":
        tensors = _read_npz(path)
    else:
        tensors = _read_torch(path)
    if not tensors:
        raise ValueError(f"{path} holds no tensors")
    return tensors


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors.

    Raises:
        ValueError, OSError, ImportError: as `read_state_dict`.
    """
    return _open_safetensors(path).metadata() or {}


def _read_safetensors(path: pathlib.Path) -> StateDict:
    file = _open_safetensors(path)

    def tensor(key: str) -> Tensor:
        shape = tuple(file.get_slice(key).get_shape())
        return Tensor(shape, lambda: _float32(file.get_tensor(key)))

    return {key: tensor(key) for key in file.keys()}


def _open_safetensors(path: pathlib.Path) -> Any:
    """The file, mapped into memory, with its header read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'ddpm_jax[safetensors]'"
        ) from error
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_npz(path: pathlib.Path) -> StateDict:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: _float32(file[key]) for key in file.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .npz of arrays: {error}") from error
    return {key: Tensor(array.shape, _always(array)) for key, array in arrays.items()}


def _read_torch(path: pathlib.Path) -> StateDict:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs PyTorch: pip install 'ddpm_jax[torch]' (a "
            ".safetensors file needs none)"
        ) from error
    try:
        # Files from before PyTorch 1.6 are not zip files and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a PyTorch file of tensors alone; what else it holds may be "
            "code, and was not run"
        ) from error
    except Exception as error:  # of many types; one line must name the file
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read by PyTorch: {reason}") from error
    tensors = {
        key: value
        for key, value in _find_weights(saved, path).items()
        if isinstance(value, torch.Tensor)
    }

    def tensor(value: Any) -> Tensor:
        return Tensor(tuple(value.shape), lambda: _torch_to_numpy(torch, value))

    return {key: tensor(value) for key, value in _unwrapped(tensors).items()}


def _torch_to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    return tensor.detach().numpy()


def _find_weights(saved: Any, path: pathlib.Path) -> Mapping[str, Any]:
    """The state dict in what was saved: averaged weights before others.

    DDIM's repository saves the list [model, optimizer, epoch, step, average].
    """
    if isinstance(saved, (list, tuple)) and saved and isinstance(saved[0], Mapping):
        return saved[4] if len(saved) == 5 else saved[0]
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"{path} must hold a state dict; it holds a {type(saved).__name__}"
        )
    for name in _NESTED:
        if isinstance(saved.get(name), Mapping):
            return _find_weights(saved[name], path)
    if not any(hasattr(value, "shape") for value in saved.values()):
        raise ValueError(
            f"{path} must hold a state dict; it holds {', '.join(map(str, saved))}"
        )
    return saved


def _unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors without a wrapper's prefix, where all keys have it."""
    for prefix in _WRAPPERS:
        if tensors and all(key.startswith(prefix) for key in tensors):
            short = {key.removeprefix(prefix): value for key, value in tensors.items()}
            return _unwrapped(short)
    return tensors


def _float32(array: np.ndarray) -> np.ndarray:
    """Floating point of any width as float32; anything else as it is."""
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array.astype(np.float32, copy=False)
    return array


def _always(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array

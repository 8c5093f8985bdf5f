"""PyTorch's files: the averaged weights, without running what else is in them."""

import pathlib
import pickle
import re
import reprlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ddpm_jax.interop.structure import prefix_of
from ddpm_jax.interop.tensors import StateDict, Tensor

OLDEST = (2, 10)  # before it, reading tensors alone could run code all the same

# Where a training script's file keeps its weights, the best ones first.
_AVERAGES = ("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "shadow")
_NESTED = (*_AVERAGES, "state_dict", "model_state_dict", "model", "unet", "net")
_DEPTH = 4  # of dicts and lists within each other


def read(path: pathlib.Path) -> tuple[StateDict, str]:
    """The likeliest state dict in a file, and the entry of the file that it is.

    Raises:
        ValueError: if the file is not whole, or holds something else.
        ImportError: if PyTorch is not installed, or too old to be trusted with it.
    """
    torch = _import_torch(path)
    saved = _load(torch, path)
    found = list(_state_dicts(torch, saved, "", _DEPTH))
    if not found:
        raise ValueError(
            f"{path} must hold a state dict; it holds {reprlib.repr(saved)}"
        )
    known = (part for part in found if prefix_of(part[1]) is not None)
    entry, tensors = next(known, found[0])

    def tensor(key: str, value: Any) -> Tensor:
        return Tensor(tuple(value.shape), lambda: _to_numpy(torch, path, key, value))

    return {key: tensor(key, value) for key, value in tensors.items()}, entry


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs PyTorch: pip install 'ddpm_jax[torch]' (a "
            ".safetensors file needs none)"
        ) from error
    numbers = re.findall(r"\d+", torch.__version__)
    if tuple(map(int, numbers[:2])) < OLDEST:
        raise ImportError(
            f"reading {path} needs torch>={'.'.join(map(str, OLDEST))}, because in "
            "those before a file of weights can run code (CVE-2025-32434, "
            f"CVE-2026-24747); got torch {torch.__version__}"
        )
    return torch


def _load(torch: Any, path: pathlib.Path) -> Any:
    try:
        # Files from before PyTorch 1.6 are not zip files and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of many types; one line must name the file
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and name:
            raise ValueError(
                f"{path} is not a PyTorch file of tensors alone: it names {name[1]}, "
                "which may be code, and was not run"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read by PyTorch: {reason}") from error


def _state_dicts(
    torch: Any, saved: Any, entry: str, depth: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(entry, tensors) of every dict of tensors in what was saved; the likeliest first.

    DDIM's repository saves the list [model, optimizer, epoch, step, average].
    """
    if isinstance(saved, Mapping):
        tensors = {
            str(key): x for key, x in saved.items() if isinstance(x, torch.Tensor)
        }
        if tensors:
            yield entry, tensors
        order = {name: i for i, name in enumerate(_NESTED)}
        parts = sorted(
            saved.items(), key=lambda part: order.get(str(part[0]), len(order))
        )
    elif isinstance(saved, (list, tuple)):
        parts = list(enumerate(saved))[::-1]
    else:
        return
    if depth:
        for key, part in parts:
            yield from _state_dicts(torch, part, f"{entry}[{key!r}]", depth - 1)


def _to_numpy(torch: Any, path: pathlib.Path, key: str, tensor: Any) -> np.ndarray:
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not dense or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout)
        raise ValueError(
            f"{path}: the tensor {key} must hold its numbers one by one; it is {kind} "
            f"on {tensor.device}"
        )
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    return tensor.detach().numpy()

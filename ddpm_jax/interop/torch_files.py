"""PyTorch's files: the averaged weights, without running what else is in them."""

import math
import pathlib
import pickle
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_jax.interop import torch_tensors
from ddpm_jax.interop.structure import prefix_of
from ddpm_jax.interop.tensors import StateDict, check_names
from ddpm_jax.text import printable, reason

# It reads where tensors lie without reading them; before 2.10 code could run as well.
OLDEST = (2, 11)

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
    found = list(_state_dicts(torch, saved.content, "", _DEPTH, set()))
    if not found:
        held = printable(reprlib.repr(saved.content), 200)
        raise ValueError(f"{path} must hold a state dict; it holds {held}")
    known = (part for part in found if prefix_of(part[1]) is not None)
    entry, tensors = next(known, found[0])

    check_names(path, tensors)
    claimed = sum(math.prod(x.shape) * x.element_size() for x in tensors.values())
    if claimed > path.stat().st_size:
        raise ValueError(
            f"{path} must hold every tensor's own numbers; they take {claimed:,} bytes"
        )
    return {key: saved.tensor(key, value) for key, value in tensors.items()}, entry


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
            f"reading {path} needs torch>={'.'.join(map(str, OLDEST))}; in some before "
            "a file of weights can run code (CVE-2025-32434, CVE-2026-24747); got "
            f"torch {torch.__version__}"
        )
    return torch


def _load(torch: Any, path: pathlib.Path) -> torch_tensors.Saved:
    try:
        return torch_tensors.load(torch, path)
    except Exception as error:  # of many types; one line must name the file
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and name:
            raise ValueError(
                f"{path} is not a PyTorch file of tensors alone: it names {name[1]}, "
                "which may be code, and was not run"
            ) from error
        raise ValueError(
            f"{path} cannot be read by PyTorch: {reason(error, 200)}"
        ) from error


def _state_dicts(
    torch: Any, saved: Any, entry: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(entry, tensors) of every dict of tensors in what was saved; the likeliest first.

    DDIM's repository saves the list [model, optimizer, epoch, step, average]. What
    stands in many places is looked at in the first.
    """
    if id(saved) in seen:
        return
    seen.add(id(saved))
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
            yield from _state_dicts(torch, part, f"{entry}[{key!r}]", depth - 1, seen)

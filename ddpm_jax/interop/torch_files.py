"""PyTorch's files: the averaged weights, without running what else is in them."""

import contextlib
import math
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_jax.interop import torch_tensors
from ddpm_jax.interop.averages import Choice, Part, choose
from ddpm_jax.interop.tensors import StateDict, check_names
from ddpm_jax.text import cause, printable, reason, some

# It reads where tensors lie without reading them; before 2.10 code could run as well.
OLDEST = (2, 11)

# Where a training script's file keeps its weights, the likeliest first.
_USUAL = ("state_dict", "model_state_dict", "model", "unet", "net")
_DEPTH = 4  # of dicts and lists within each other
_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of a stream by torch.save


def read(path: pathlib.Path) -> Choice:
    """The likeliest weights in a file: the averaged ones, where it has them.

    Raises:
        ValueError: if the file is not whole, or holds something else.
        ImportError: if PyTorch is not installed, or too old to be trusted with it.
    """
    torch = _import_torch(path)
    saved = _load(torch, path)
    if _is_optimizer(saved.content):
        raise ValueError(
            f"{path} holds the state of an optimizer and no weights: they are in "
            "another file (OpenAI's opt*.pt lies beside the average, ema_*.pt)"
        )
    parts = list(_parts(torch, saved.content, "", _DEPTH, set()))
    if not parts:
        raise ValueError(
            f"{path} must hold a state dict; it holds {_described(saved.content)}"
        )
    for part in parts:
        if isinstance(part.tensors, dict):
            check_names(path, part.tensors)
    chosen = choose(parts)
    return chosen._replace(tensors=_checked(path, saved, chosen.tensors))


def read_flat(path: pathlib.Path) -> StateDict:
    """The state dict that a file is, as the file names its tensors.

    Raises:
        ValueError, ImportError: as `read`.
    """
    torch = _import_torch(path)
    saved = _load(torch, path)
    for part in _parts(torch, saved.content, "", 0, set()):
        if isinstance(part.tensors, dict):
            check_names(path, part.tensors)
            return _checked(path, saved, part.tensors)
    raise ValueError(
        f"{path} must be a state dict; it holds {_described(saved.content)}"
    )


def _checked(
    path: pathlib.Path, saved: torch_tensors.Saved, tensors: dict[str, Any]
) -> StateDict:
    claimed = sum(math.prod(x.shape) * x.element_size() for x in tensors.values())
    if claimed > path.stat().st_size:
        raise ValueError(
            f"{path} must hold every tensor's own numbers; they take {claimed:,} bytes"
        )
    return {key: saved.tensor(key, value) for key, value in tensors.items()}


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
            ) from cause(error)
        # PyTorch's own words advise to load it without this care.
        advice = "weights_only" in str(error)
        said = "it holds more than tensors" if advice else reason(error, 200)
        raise ValueError(
            f"{path} cannot be read by PyTorch: {_other_kind(path) or said}"
        ) from cause(error)


def _other_kind(path: pathlib.Path) -> str | None:
    """What a file is that torch.save did not write; None where it may have."""
    with path.open("rb") as file:
        beginning = file.read(len(_MAGIC))
    if beginning.startswith(b"PK"):
        # Of a damaged directory zipfile raises errors of many types.
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return (
                    "it is a TorchScript program, which is code, and was not run; save "
                    "the state_dict() of its module"
                )
        return None
    if beginning == _MAGIC:
        return None
    if beginning[:1] == b"\x80":
        return (
            "it is a plain pickle, which can run code, and was not run; save its "
            "tensors with torch.save, or as safetensors"
        )
    return "torch.save did not write it"


def _parts(
    torch: Any, saved: Any, entry: str, depth: int, seen: set[int]
) -> Iterator[Part]:
    """Every dict and every list of tensors in what was saved; the likeliest first.

    DDIM's repository saves the list [model, optimizer, epoch, step, average]. What
    stands in many places is looked at in the first.
    """
    if id(saved) in seen or _is_optimizer(saved):
        return
    seen.add(id(saved))
    if isinstance(saved, Mapping):
        tensors = {
            str(key): x for key, x in saved.items() if isinstance(x, torch.Tensor)
        }
        if tensors:
            yield Part(entry, tensors)
        order = {name: i for i, name in enumerate(_USUAL)}
        inner = sorted(
            saved.items(), key=lambda part: order.get(str(part[0]), len(order))
        )
    elif isinstance(saved, (list, tuple)):
        if saved and all(isinstance(x, torch.Tensor) for x in saved):
            yield Part(entry, list(saved))
            return
        inner = list(enumerate(saved))[::-1]
    else:
        return
    if depth:
        for key, part in inner:
            name = f"{entry}[{printable(repr(key), 60)}]"
            yield from _parts(torch, part, name, depth - 1, seen)


def _is_optimizer(saved: Any) -> bool:
    """Whether this is the state_dict() of one of PyTorch's optimizers."""
    return isinstance(saved, Mapping) and {"state", "param_groups"} <= saved.keys()


def _described(content: Any) -> str:
    """What was saved, without what it holds."""
    if isinstance(content, Mapping):
        keys = [printable(repr(key), 60) for key in content]
        return f"a dict of {some(keys, 10) or 'nothing'}"
    if isinstance(content, (list, tuple)):
        kinds = dict.fromkeys(type(part).__name__ for part in content)
        return f"a {type(content).__name__} of {some(kinds) or 'nothing'}"
    return f"one {type(content).__name__}"

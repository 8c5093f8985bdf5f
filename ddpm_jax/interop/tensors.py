"""State dicts, and how safetensors files hold them.

A state dict is {key: `Tensor`}: shapes are known at once, and numbers are read when
they are asked for.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.interop.json_files import read_object
from ddpm_jax.text import cause, damaged, printable


class Tensor(NamedTuple):
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # float32 (or the file's own type of integers)


StateDict = dict[str, Tensor]
_LONGEST_NAME = 300


def check_names(path: pathlib.Path, names: Iterable[str]) -> None:
    """Holds that what a file calls its tensors can be shown as it is.

    Raises:
        ValueError: if a name is none that a part of a network could have.
    """
    for name in names:
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ValueError(
                f"{path} must name its tensors with printable characters, at most "
                f"{_LONGEST_NAME}; one is {printable(name, 60)}"
            )


def read_safetensors(path: pathlib.Path) -> StateDict:
    """The state dict of a safetensors file.

    Raises:
        ValueError: if the file is truncated or of another format.
        OSError: if it cannot be opened.
        ImportError: if safetensors is not installed.
    """
    file = _open_safetensors(path)
    check_names(path, file.keys())

    def tensor(key: str) -> Tensor:
        view = file.get_slice(key)
        kind = view.get_dtype()

        def read() -> np.ndarray:
            if kind == "F4" or "_E" in kind:  # below 16 bits, as F8_E4M3
                raise ValueError(
                    f"{path}: the tensor {key} must hold numbers of 16 bits or more; "
                    f"got {kind}"
                )
            return as_float32(file.get_tensor(key))

        return Tensor(tuple(view.get_shape()), read)

    return {key: tensor(key) for key in file.keys()}


def read_shards(
    path: pathlib.Path, read: Callable[[pathlib.Path], StateDict]
) -> StateDict:
    """The state dict of the files that an index beside them lists.

    Args:
        path: of the index.
        read: a file -> its state dict.

    Raises:
        ValueError, OSError, ImportError: as `read`, and if the index does not fit the
            files.
    """
    index = read_object(path)
    try:
        places = index["weight_map"]
        names = sorted(set(places.values()))
        check_names(path, [*places, *names])
        outside = [name for name in names if pathlib.Path(name).name != name]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must hold a weight_map of file names") from error
    if outside:
        raise ValueError(f"{path} must name files beside it; got {outside[0]}")
    shards = {}
    for name in names:
        if not path.with_name(name).is_file():
            raise FileNotFoundError(f"there is no {path.with_name(name)}, a part of it")
        shards[name] = read(path.with_name(name))
    absent = [key for key, name in places.items() if key not in shards[name]]
    if absent:
        raise ValueError(f"{path.with_name(places[absent[0]])} must hold {absent[0]}")
    return {key: shards[name][key] for key, name in places.items()}


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors.

    Raises:
        ValueError, OSError, ImportError: as `read_safetensors`.
    """
    return _open_safetensors(path).metadata() or {}


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
        raise damaged(path, "safetensors file", error) from cause(error)


def as_float32(array: np.ndarray) -> np.ndarray:
    """Floating point of any width as float32; anything else as it is.

    Args:
        array: of any shape.

    Returns:
        The same numbers, of the same shape.
    """
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # a float64 that is none of 32 bits is inf
            return array.astype(np.float32, copy=False)
    return array

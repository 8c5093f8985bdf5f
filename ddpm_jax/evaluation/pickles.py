"""Pickles of NumPy arrays, read without running anything that they name.

A pickle is a program. Of what it may call there are stand-ins here for the three names
by which NumPy writes an array down; all else is refused, and nothing is imported. The
stand-ins check what they are given, since NumPy's own trust it.
"""

import io
import pathlib
import pickle
import pickletools
from typing import Any

import numpy as np

from ddpm_jax.text import cause, damaged, printable

_KIND = "pickle of arrays"
_LONGEST = 2**31  # bytes
_MOST_MEMOS = 10_000  # what a pickle refers back to
_DTYPES = ("f2", "f4", "f8", "i4", "i8", "u4", "u8")


def read_pickle(path: pathlib.Path) -> Any:
    """What the file holds: a dict of numbers, arrays, and dicts of them.

    Raises:
        ValueError: if it is damaged, or names anything beside NumPy's arrays.
        OSError: if it cannot be opened.
    """
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} must be smaller than {_LONGEST:,} bytes")
    data = path.read_bytes()
    try:
        _check_memos(data)
        return _plain(_Unpickler(io.BytesIO(data)).load())
    except _Refused as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # of any type: a pickle can hold anything
        raise damaged(path, _KIND, error) from cause(error)


class _Refused(Exception):
    """What a pickle must not do, to follow the name of its file."""


class _Dtype:
    """A type of numbers as it is written down: its name, then its byte order."""

    def __init__(self, name: str, align: bool = False, copy: bool = False):
        if name not in _DTYPES:
            raise _Refused(
                f"must hold numbers; got the type {printable(str(name), 40)}"
            )
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        order, *rest = state[1:]
        if order not in ("<", ">", "|", "=") or any(rest[:3]):
            raise _Refused("must hold plain arrays; got one of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array as it is written down: made empty, then given its state."""

    value: np.ndarray | None = None

    def __init__(self, kind: object, shape: object, code: object):
        pass  # NumPy would make memory of this shape

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in, if it is one of NumPy's names for an array."""
        parts = module.split(".")
        if parts[0] == "numpy":
            place = ".".join(part for part in parts[1:] if part not in _CORES)
            if (place, name) in _ALLOWED:
                return _ALLOWED[place, name]
        raise _Refused(
            "must hold NumPy arrays alone; it would call "
            f"{printable(f'{module}.{name}', 80)}"
        )


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """As NumPy's `_frombuffer`: numbers of a type, from bytes of just their length."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("must hold arrays of numbers; got one of objects")
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise _Refused("must hold arrays; got one of an impossible shape")
    flat: np.ndarray = np.frombuffer(data, dtype.dtype)
    return np.reshape(flat, shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


class _Kind:
    """NumPy's class of arrays, which is named and never called."""


_CORES = ("core", "_core")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("", "dtype"): _Dtype,
    ("", "ndarray"): _Kind,
    ("multiarray", "_reconstruct"): _Array,
    ("multiarray", "scalar"): _scalar,
    ("numeric", "_frombuffer"): _array,
}


def _check_memos(data: bytes) -> None:
    """Refuses a memory of billions of places, which Python would make at once."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and int(argument or 0) > _MOST_MEMOS:
            raise _Refused("must not refer to more than it holds")


def _plain(held: Any, depth: int = 2) -> Any:
    """The same with arrays in the places of stand-ins; no deeper than EDM2's."""
    if isinstance(held, dict) and depth:
        return {key: _plain(value, depth - 1) for key, value in held.items()}
    if not isinstance(held, _Array):
        return held
    if held.value is None:
        raise _Refused("must hold whole arrays; one has no numbers")
    return held.value

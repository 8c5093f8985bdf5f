"""NumPy's archives: every header is checked before any array is unpacked."""

import contextlib
import io
import math
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ddpm_jax.interop.tensors import StateDict, Tensor, as_float32, check_names
from ddpm_jax.interop.zip_files import open_archive
from ddpm_jax.text import cause, damaged

_KIND = ".npz of arrays"
# Floating point numbers do not pack to a hundredth of their size, not even where half
# of the weights are zero; what does was made to fill a memory. Small files may.
_MOST_RATIO = 100
_FREE_BYTES = 2**26
_LONGEST_HEADER = 2**16


class StoredArray(NamedTuple):
    """An array that is still in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    # At most so many of its first axis at a time, in order, as they are unpacked.
    batches: Callable[[int], Iterator[np.ndarray]]


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int  # of the array, in bytes
    nbytes: int  # of header and array


def read_npz(path: pathlib.Path) -> StateDict:
    """The state dict of a NumPy archive; nothing is unpacked until it is read.

    Raises:
        ValueError: if it is not whole, holds Python objects, or unpacks to far more
            than weights can.
    """
    arrays = read_arrays(path)
    packed = path.stat().st_size
    unpacked = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays.values())
    if unpacked > max(_FREE_BYTES, _MOST_RATIO * packed):
        raise ValueError(
            f"{path} must hold weights, which do not pack well; its {packed:,} bytes "
            f"unpack to {unpacked:,}"
        )

    def tensor(array: StoredArray) -> Tensor:
        return Tensor(array.shape, lambda: as_float32(array.read()))

    return {name: tensor(array) for name, array in arrays.items()}


def read_arrays(path: pathlib.Path) -> dict[str, StoredArray]:
    """The arrays of a NumPy archive; nothing is unpacked until it is read.

    What is unpacked is as large as its shape says; whoever reads looks at it first.

    Raises:
        ValueError: if it is not whole, or holds Python objects.
    """
    archive = open_archive(path, _KIND)
    check_names(path, archive.namelist())
    return dict(_stored(path, archive, member) for member in archive.infolist())


def _stored(
    path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[str, StoredArray]:
    """(name, array) of a member, whose header agrees with the zip file's directory."""
    name = member.filename.removesuffix(".npy")
    with _named(path, name), archive.open(member) as file:
        # NumPy would read a header of the gigabytes that it says it has.
        header = _read_header(io.BytesIO(file.read(_LONGEST_HEADER)))
    if header.dtype.hasobject:
        raise ValueError(f"{path} must hold numbers; {name} holds Python objects")
    if header.nbytes != member.file_size:
        raise ValueError(
            f"{path} is not a whole {_KIND}: {name} of the shape {header.shape} and "
            f"{header.dtype} takes {header.nbytes:,} bytes with its header; it has "
            f"{member.file_size:,}"
        )

    def read() -> np.ndarray:
        with _named(path, name), archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
            file.read(1)  # at its end the sum is compared
        return array

    def batches(size: int) -> Iterator[np.ndarray]:
        if header.fortran:
            whole = read()
            yield from (whole[i : i + size] for i in range(0, len(whole), size))
            return
        each = math.prod(header.shape[1:]) * header.dtype.itemsize
        with archive.open(member) as file:
            file.read(header.start)
            for first in range(0, header.shape[0], size):
                count = min(size, header.shape[0] - first)
                with _named(path, name):
                    flat = np.frombuffer(file.read(count * each), header.dtype)
                    batch = flat.reshape(count, *header.shape[1:])
                yield batch

    return name, StoredArray(header.shape, header.dtype, read, batches)


@contextlib.contextmanager
def _named(path: pathlib.Path, name: str) -> Iterator[None]:
    """Names the file and the array in an error of unpacking."""
    try:
        yield
    except Exception as error:  # of zlib, zipfile, numpy and ast
        raise damaged(path, f"{_KIND}: {name}", error) from cause(error)


def _read_header(file: IO[bytes]) -> _Header:
    """What an array's header says.

    Raises:
        Exception: of any kind, as for headers of anything else.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers by Python 2, of odd literals
        version = npy.read_magic(file)
        if version not in readers:  # 3.0 is for structured arrays
            raise ValueError(f"the header has the version {version}")
        shape, fortran, dtype = readers[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape is {shape}")
    start = file.tell()
    nbytes = start + math.prod(shape) * dtype.itemsize
    return _Header(shape, fortran, dtype, start, nbytes)

"""NumPy's archives: every header is checked before any array is unpacked."""

import math
import pathlib
import warnings
import zipfile
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


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int  # of header and array


def read_npz(path: pathlib.Path) -> StateDict:
    """The state dict of a NumPy archive; nothing is unpacked until it is read.

    Raises:
        ValueError: if it is not whole, holds Python objects, or unpacks to far more
            than weights can.
    """
    archive = open_archive(path, _KIND)
    members = archive.infolist()
    packed = path.stat().st_size
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_FREE_BYTES, _MOST_RATIO * packed):
        raise ValueError(
            f"{path} must hold weights, which do not pack well; its {packed:,} bytes "
            f"unpack to {unpacked:,}"
        )
    check_names(path, archive.namelist())
    return dict(_tensor(path, archive, member) for member in members)


def _tensor(
    path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[str, Tensor]:
    """(name, tensor) of a member, whose header agrees with the zip file's directory."""
    name = member.filename.removesuffix(".npy")
    try:
        with archive.open(member) as file:
            header = _read_header(file)
    except Exception as error:  # of zlib, zipfile, numpy and ast
        raise damaged(path, f"{_KIND}: {name}", error) from cause(error)
    if header.dtype.hasobject:
        raise ValueError(f"{path} must hold numbers; {name} holds Python objects")
    if header.nbytes != member.file_size:
        raise ValueError(
            f"{path} is not a whole {_KIND}: {name} of the shape {header.shape} and "
            f"{header.dtype} takes {header.nbytes:,} bytes with its header; it has "
            f"{member.file_size:,}"
        )

    def read() -> np.ndarray:
        with archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
            file.read(1)  # at its end the sum is compared
        return as_float32(array)

    return name, Tensor(header.shape, read)


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
        shape, _, dtype = readers[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape is {shape}")
    return _Header(shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize)

"""How PyTorch's files hold tensors: every size is checked before a byte is read.

A file is a pickle of views ("the storage 7 from number 12 on, shape and strides such")
and the storages. PyTorch maps a storage as long as the pickle says, whatever the file
has there; here the pickle is loaded without any storage, and each tensor that is wanted
is read from a record that is exactly as long as its storage, and whose sum is right.

Files from before PyTorch 1.6 are one stream without sums, and are read whole.
"""

import functools
import itertools
import math
import pathlib
import pickletools
import sys
import warnings
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

from ddpm_jax.interop.tensors import Tensor
from ddpm_jax.interop.zip_files import check_stored, open_archive
from ddpm_jax.text import cause, damaged

# What a file of 10,000 tensors stays far below. Tuples within tuples are hashed by
# recursion in C, and some 100,000 of them overflow its stack.
_MOST_TUPLES = 50_000
_MOST_OPCODES = 1_000_000
_LEGACY_PICKLES = 4  # magic number, version, machine, what was saved


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        content: what was saved; its tensors have shapes, and maybe no numbers.
        tensor: (key, tensor of the content) -> the tensor as it lies in the file.
    """

    content: Any
    tensor: Callable[[str, Any], Tensor]


def load(torch: Any, path: pathlib.Path) -> Saved:
    """What a PyTorch file holds, without running what else is in it.

    Raises:
        ValueError: if it is not whole.
        Exception: of any kind from PyTorch, for files that are not its own.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # how PyTorch itself tells them apart
    return _load_zip(torch, path) if zipped else _load_stream(torch, path)


def _load_zip(torch: Any, path: pathlib.Path) -> Saved:
    archive = open_archive(path, "PyTorch file")
    for member in archive.infolist():
        # PyTorch looks for names without regard to case.
        name = member.filename.lower().rpartition("/")[2]
        if name in ("data.pkl", "byteorder", ".format_version", ".storage_alignment"):
            check_stored(path, member)
            content = _read(path, archive, member)
            if name == "data.pkl":
                _check_pickles(path, archive.open(member), 1)
            elif name == "byteorder" and content.decode("latin1") != sys.byteorder:
                raise ValueError(
                    f"{path} must be of a {sys.byteorder}-endian machine, as this one "
                    f"is; its byteorder is {content[:9]!r}"
                )
    content = _torch_load(torch, path, "meta")
    begins = {_data_offset(archive, member): member for member in archive.infolist()}

    @functools.lru_cache(maxsize=1)  # many tensors may be views of one storage
    def storage(member: zipfile.ZipInfo) -> Any:
        return torch.frombuffer(
            bytearray(_read(path, archive, member)), dtype=torch.uint8
        ).untyped_storage()

    def tensor(key: str, view: Any) -> Tensor:
        _check_view(torch, path, key, view)
        held = view.untyped_storage()
        member = begins.get(getattr(held, "_checkpoint_offset", -1))
        if member is None:
            raise ValueError(f"{path}: the tensor {key} has no numbers in the file")
        check_stored(path, member)
        if member.file_size != held.nbytes():
            raise ValueError(
                f"{path}: the storage of the tensor {key} must have {held.nbytes():,} "
                f"bytes; {member.filename} has {member.file_size:,}"
            )

        def read() -> np.ndarray:
            if not math.prod(view.shape):
                return _to_numpy(torch, torch.empty(view.shape, dtype=view.dtype))
            place = view.storage_offset(), view.shape, view.stride()
            empty = torch.empty(0, dtype=view.dtype)
            return _to_numpy(torch, empty.set_(storage(member), *place))

        return Tensor(tuple(view.shape), read)

    return Saved(content, tensor)


def _load_stream(torch: Any, path: pathlib.Path) -> Saved:
    with path.open("rb") as file:
        _check_pickles(path, file, _LEGACY_PICKLES)
    left = path.stat().st_size

    def count(storage: Any, location: str) -> Any:
        """Leaves each storage on the CPU, if the file can hold it."""
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise ValueError(f"its tensors take {-left:,} bytes more than it has")
        return storage

    content = _torch_load(torch, path, count)

    def tensor(key: str, view: Any) -> Tensor:
        _check_view(torch, path, key, view)
        if view.device.type != "cpu":
            raise ValueError(f"{path}: the tensor {key} has no numbers in the file")
        return Tensor(tuple(view.shape), lambda: _to_numpy(torch, view))

    return Saved(content, tensor)


def _torch_load(torch: Any, path: pathlib.Path, place: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols and types; it reads, or raises
        return torch.load(path, map_location=place, weights_only=True)


def _check_pickles(path: pathlib.Path, file: IO[bytes], count: int) -> None:
    """Holds that pickles in a row are of no absurd size; PyTorch sees to the rest.

    Raises:
        ValueError: otherwise.
    """
    pickles = (pickletools.genops(file) for _ in range(count))
    tuples = 0
    try:
        for i, (opcode, _, _) in enumerate(itertools.chain.from_iterable(pickles)):
            tuples += opcode.name.startswith("TUPLE")
            if i > _MOST_OPCODES or tuples > _MOST_TUPLES:
                break
        else:
            return
    except Exception:  # of many types: it is no pickle, as PyTorch will say
        return
    raise ValueError(
        f"{path} must hold a state dict; beside tensors it holds more than "
        f"{_MOST_TUPLES:,} tuples or {_MOST_OPCODES:,} values"
    )


def _data_offset(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its own header says how long its names are."""
    file = archive.fp
    assert file is not None  # it is open as long as there are readers
    file.seek(member.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return member.header_offset + 30 + name + extra


def _read(
    path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> bytes:
    """A member's bytes, their sum compared."""
    try:
        return archive.read(member)
    except Exception as error:  # of zipfile, zlib, struct and the system
        raise damaged(path, "PyTorch file", error) from cause(error)


def _check_view(torch: Any, path: pathlib.Path, key: str, view: Any) -> None:
    """Holds that a tensor has numbers of its own that lie within its storage.

    Raises:
        ValueError: if it is of another layout, or its shape or strides go beyond.
    """
    if view.layout != torch.strided or view.is_quantized or view.is_neg():
        kind = "quantized" if view.is_quantized else str(view.layout)
        raise ValueError(
            f"{path}: the tensor {key} must hold its numbers one by one; it is {kind}"
        )
    shape, strides = tuple(view.shape), view.stride()
    count = math.prod(shape)
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    reach = view.storage_offset() + last + 1 if count else 0
    held = view.untyped_storage().nbytes()
    if max(count, reach) * view.element_size() > held:
        raise ValueError(
            f"{path}: the tensor {key} of the shape {shape} and the strides {strides} "
            f"must have numbers of its own; its storage has {held:,} bytes"
        )


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
    return tensor.detach().numpy()

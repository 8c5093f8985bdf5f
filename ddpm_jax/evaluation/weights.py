"""Where the weights of feature networks come from, and whether they are the right ones.

A published file is the one with the published SHA-256. It is looked for in the cache,
$DDPM_JAX_CACHE or the system's, and downloaded into it where it is not. A path may also
lead to other weights of the same layout, which are then known by their checksum.
"""

import hashlib
import http.client
import os
import pathlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ddpm_jax import processes
from ddpm_jax.files import whole_file
from ddpm_jax.interop.files import read_state_dict
from ddpm_jax.interop.load import check_tensors
from ddpm_jax.interop.tensors import Tensor
from ddpm_jax.progress import watched
from ddpm_jax.text import reason

_PIECE = 2**20  # bytes that are read at a time
_PATIENCE = 30.0  # seconds without an answer
# torch.hub's convention: the name ends in the first digits of the SHA-256.
_HASHED = re.compile(r".*-([0-9a-f]{8,64})\.[^.]+")

Shapes = Mapping[str, tuple[int, ...]]


class Published(NamedTuple):
    """A file that is public.

    Attributes:
        name: of the file.
        url: where it is.
        sha256: of its bytes.
    """

    name: str
    url: str
    sha256: str


class Found(NamedTuple):
    """A file of weights on this machine.

    Attributes:
        path: of the file.
        checksum: its SHA-256.
        published: whether it is the published one.
    """

    path: pathlib.Path
    checksum: str
    published: bool


INCEPTION = Published(
    "pt_inception-2015-12-05-6726825d.pth",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
DINOV2_VITL14 = Published(
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
)


def cache() -> pathlib.Path:
    """The folder of downloads: $DDPM_JAX_CACHE, or ddpm_jax in the user's cache."""
    if chosen := os.environ.get("DDPM_JAX_CACHE"):
        return pathlib.Path(chosen).expanduser()
    if sys.platform == "darwin":
        return pathlib.Path("~/Library/Caches/ddpm_jax").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "ddpm_jax"


def find(published: Published, path: pathlib.Path | str | None = None) -> Found:
    """A file of weights: that of a path, or the published one from cache or net.

    All processes of a run call it; one of those that share a cache downloads.

    Raises:
        ValueError: if the file is not the published one, and has its name or comes from
            the cache or the net; a path of another name may lead to other weights.
        OSError: if the path is not there; or without a path, if the file is not in the
            cache and cannot be downloaded into it.
    """
    if path is None:
        return processes.main_first("weights", lambda: _cached(published))
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    checksum = sha256(path)
    digits = _HASHED.fullmatch(path.name)
    wanted = digits[1] if digits else ""
    if path.name == published.name:
        wanted = published.sha256
    if not checksum.startswith(wanted):
        raise _differs(path, wanted, checksum)
    return Found(path, checksum, checksum == published.sha256)


def read(
    path: pathlib.Path | str, shapes: Shapes, *, ignored: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The tensors of a file of weights, float32, by key; no code in it is run.

    Args:
        path: a `.pth`, `.safetensors` or `.npz`.
        shapes: of the tensors that there must be.
        ignored: the last names of tensors that there may be, and are left out.

    Returns:
        Arrays by key, each of the shape asked for.

    Raises:
        ValueError: if it is not whole, if tensors are missing, left over or of another
            shape, or if they hold what is not finite.
        OSError: if it cannot be opened.
        ImportError: if what reads it is not installed: PyTorch for a `.pth`.
    """
    tensors = {
        key: tensor
        for key, tensor in read_state_dict(path).tensors.items()
        if key.rpartition(".")[2] not in ignored
    }
    try:
        check_tensors(tensors, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return {key: _finite(path, key, tensor) for key, tensor in tensors.items()}


def check(
    tensors: Mapping[str, Any], shapes: Shapes, *, ignored: Sequence[str] = ()
) -> None:
    """Holds that arrays by key are the tensors of a network.

    Raises:
        ValueError: if some are missing, left over or of another shape; all are named.
    """
    known = {
        key: Tensor(tuple(np.shape(array)), lambda: np.empty(0))
        for key, array in tensors.items()
        if key.rpartition(".")[2] not in ignored
    }
    check_tensors(known, shapes)


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tensors: Mapping[str, Any]) -> str:
    """A checksum of arrays by key, where there is no file: names, shapes, numbers."""
    state = hashlib.sha256()
    for key in sorted(tensors):
        array = np.ascontiguousarray(tensors[key])
        state.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _finite(path: pathlib.Path | str, key: str, tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor.read(), np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: the tensor {key} must hold finite numbers")
    return array


def _cached(published: Published) -> Found:
    path = cache() / published.name
    if not path.is_file():
        _download(published, path)
    checksum = sha256(path)
    if checksum != published.sha256:
        raise _differs(path, published.sha256, checksum)
    return Found(path, checksum, True)


def _differs(path: pathlib.Path | str, wanted: str, found: str) -> ValueError:
    return ValueError(
        f"{path} must have the SHA-256 {wanted}{'...' * (len(wanted) < 64)}; got "
        f"{found}: it is not whole, or another file"
    )


def _download(published: Published, path: pathlib.Path) -> None:
    """Writes the published file, if it is that."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file, _opened(published.url) as answer:
            state = hashlib.sha256()
            with tqdm(
                total=answer.length,
                desc=published.name,
                unit="B",
                unit_scale=True,
                disable=not watched(),
            ) as bar:
                while piece := answer.read(_PIECE):
                    file.write(piece)
                    state.update(piece)
                    bar.update(len(piece))
            if answer.length:  # what is left of it
                raise http.client.IncompleteRead(b"", answer.length)
            if state.hexdigest() != published.sha256:
                raise _differs(published.url, published.sha256, state.hexdigest())
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"there is no {path}, and {published.url} cannot be downloaded into it "
            f"({reason(error)}): put the file there, or give its path"
        ) from None


def _opened(url: str) -> http.client.HTTPResponse:
    return urllib.request.urlopen(url, timeout=_PATIENCE)

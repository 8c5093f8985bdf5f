"""Statistics of reference sets as the field's evaluators keep them in files.

`.npz` of TTUR, pytorch-fid and EDM: mu, sigma. guided-diffusion's: also mu_s, sigma_s
of the spatial features, and images as arr_0. `.pkl` of EDM2: num_images, and mu, sigma
for each of fid and fd_dinov2.
"""

import hashlib
import json
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.evaluation.frechet import check_gaussian
from ddpm_jax.evaluation.pickles import read_pickle
from ddpm_jax.files import whole_file
from ddpm_jax.interop.npz_files import StoredArray, read_arrays
from ddpm_jax.text import damaged, printable, some

POOLED, SPATIAL, DINOV2 = "2048", "spatial", "dinov2"
# Of a tap: its mean and covariance in an .npz; its entry in a .pkl.
_NPZ = {POOLED: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
_PKL = {POOLED: "fid", DINOV2: "fd_dinov2"}
FACTS = "features_of"  # the array of an .npz with JSON on its network
_MOST = 2**14  # dimensions; a covariance of them takes 2 GB


class Statistics(NamedTuple):
    """The mean and covariance of the features of one tap.

    Attributes:
        mean: (d,) float64.
        cov: (d, d) float64.
        images: how many; None = the file does not say it.
    """

    mean: np.ndarray
    cov: np.ndarray
    images: int | None = None


class Reference(NamedTuple):
    """What a file of statistics holds.

    Attributes:
        features: by tap.
        images: (n, h, w, c) uint8, still in the file; None = the file has none.
        source: the file.
        checksum: its SHA-256.
        facts: which network and resize gave the features, where this project wrote the
            file.
    """

    features: Mapping[str, Statistics]
    images: StoredArray | None = None
    source: str = ""
    checksum: str = ""
    facts: Mapping[str, Any] | None = None

    def statistics(self, tap: str, dimension: int) -> Statistics:
        """The statistics of a tap of a network.

        Args:
            tap: its name.
            dimension: d, which the statistics must have.

        Raises:
            ValueError: if the file has none, or of another dimension.
        """
        if tap not in self.features:
            wanted = ""
            if tap == SPATIAL:
                wanted = " (mu_s and sigma_s, which sFID compares with)"
            raise ValueError(
                f"{self.source} must hold statistics of {tap} features{wanted}; it has "
                f"{some(self.features) or 'none'}"
            )
        found = self.features[tap]
        if len(found.mean) != dimension:
            raise ValueError(
                f"{self.source} must hold {tap} features of the dimension {dimension}, "
                f"as the network's; they have {len(found.mean)}"
            )
        return found


def read_reference(path: pathlib.Path | str, *, tap: str = POOLED) -> Reference:
    """The statistics, and where there are, the images of a file.

    Args:
        path: ends in .npz or .pkl.
        tap: what the features of mu and sigma in an .npz are called.

    Raises:
        ValueError: if it is damaged, holds neither statistics nor images, or numbers
            that are none of a mean and a covariance; or, for a pickle, anything but
            NumPy arrays.
        OSError: if it cannot be opened.
    """
    path = pathlib.Path(path)
    check_suffix(path)
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if path.suffix == ".pkl":
        features, images, facts = _of_pickle(path, read_pickle(path)), None, None
    else:
        arrays = read_arrays(path)
        features = _of_arrays(path, arrays, tap)
        images, facts = _images(path, arrays), _facts(path, arrays)
    if not features and images is None:
        raise ValueError(f"{path} must hold statistics or images; it has neither")
    return Reference(features, images, str(path), checksum, facts)


def check_suffix(path: pathlib.Path) -> None:
    """Refuses the name of a file of statistics that does not say its format.

    Args:
        path: the file.

    Raises:
        ValueError: unless it ends in .npz or .pkl.
    """
    if path.suffix not in (".npz", ".pkl"):
        raise ValueError(
            f"{path} must end in .npz or .pkl, to say how it is to be read"
        )


def write_reference(
    path: pathlib.Path | str,
    features: Mapping[str, Statistics],
    *,
    images: np.ndarray | None = None,
    tap: str = POOLED,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """A file that the evaluators above read, and `read_reference` too.

    Args:
        path: ends in .npz (the taps `tap` and spatial) or .pkl (2048 and dinov2).
        features: by tap.
        images: for an .npz, (n, h, w, c) uint8.
        tap: of `features`, which becomes mu and sigma in an .npz.
        facts: of an .npz, what `Reference.facts` is to be.

    Raises:
        ValueError: if such a file cannot hold the taps or images, or there are none.
        OSError: if it cannot be written.
    """
    path = pathlib.Path(path)
    names = _PKL if path.suffix == ".pkl" else {tap: _NPZ[POOLED], **_NPZ}
    unknown = [name for name in features if name not in names]
    if path.suffix not in (".npz", ".pkl") or unknown or not features:
        raise ValueError(
            f"{path} must end in .npz, for {tap} and {SPATIAL} features, or in .pkl, "
            f"for {' and '.join(_PKL)}; got {some(features) or 'none'}"
        )
    for name, found in features.items():
        _check(path, name, found.mean, found.cov)
    if path.suffix == ".pkl":
        if images is not None:
            raise ValueError(f"{path} must end in .npz to hold images")
        _write_pickle(path, features)
    else:
        arrays: dict[str, Any] = {} if images is None else {"arr_0": images}
        for name, found in features.items():
            mean, cov = (_NPZ | {tap: _NPZ[POOLED]})[name]
            arrays |= {mean: found.mean, cov: found.cov}
            if found.images is not None:
                arrays["num_images"] = found.images
        if facts is not None:
            arrays[FACTS] = np.frombuffer(json.dumps(dict(facts)).encode(), np.uint8)
        with whole_file(path) as file:
            np.savez(file, **arrays)


def _write_pickle(path: pathlib.Path, features: Mapping[str, Statistics]) -> None:
    counts = {found.images for found in features.values()}
    if len(counts) != 1:
        raise ValueError(f"{path} must hold features of one set; got {counts} images")
    (count,) = counts
    held: dict[str, Any] = {} if count is None else {"num_images": count}
    for name, found in features.items():
        held[_PKL[name]] = {"mu": found.mean, "sigma": found.cov}
    with whole_file(path) as file:
        pickle.dump(held, file, protocol=4)


def _of_arrays(
    path: pathlib.Path, arrays: Mapping[str, StoredArray], tap: str
) -> dict[str, Statistics]:
    features = {}
    count = arrays.get("num_images")
    images = None
    if count is not None and count.shape == () and count.dtype.kind in "iu":
        images = int(count.read())
    for name, keys in {tap: _NPZ[POOLED], SPATIAL: _NPZ[SPATIAL]}.items():
        if not any(key in arrays for key in keys):
            continue
        absent = [key for key in keys if key not in arrays]
        if absent:
            raise ValueError(f"{path} must hold {' and '.join(keys)}; no {absent[0]}")
        # Before anything is unpacked.
        mean, cov = (arrays[key] for key in keys)
        for key, stored in zip(keys, (mean, cov), strict=True):
            _check_kind(path, key, stored.dtype, stored.shape)
        features[name] = _statistics(path, name, mean.read(), cov.read(), images)
    return features


def _of_pickle(path: pathlib.Path, held: Any) -> dict[str, Statistics]:
    features = {}
    if not isinstance(held, dict):
        raise ValueError(f"{path} must hold a dict; got {type(held).__name__}")
    count = held.get("num_images")
    images = int(count) if isinstance(count, int | np.integer) else None
    for name, key in _PKL.items():
        entry = held.get(key)
        if entry is None:
            continue
        entry = entry if isinstance(entry, dict) else {}
        mean, cov = entry.get("mu"), entry.get("sigma")
        if not (isinstance(mean, np.ndarray) and isinstance(cov, np.ndarray)):
            raise ValueError(f"{path}: {key} must hold the arrays mu and sigma")
        for array in (mean, cov):
            _check_kind(path, key, array.dtype, array.shape)
        features[name] = _statistics(path, name, mean, cov, images)
    return features


def _statistics(
    path: pathlib.Path, tap: str, mean: np.ndarray, cov: np.ndarray, images: int | None
) -> Statistics:
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    _check(path, tap, mean, cov)
    return Statistics(mean, cov, images)


def _check_kind(
    path: pathlib.Path, key: str, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    """Holds that an array has digits enough, and a size that can be meant."""
    if dtype.kind != "f" or dtype.itemsize < 4:
        raise ValueError(f"{path}: {key} must be float32 or float64; got {dtype}")
    if max(shape, default=0) > _MOST:
        raise ValueError(
            f"{path}: {key} must have at most {_MOST} dimensions; got {shape}"
        )


def _check(path: pathlib.Path, tap: str, mean: np.ndarray, cov: np.ndarray) -> None:
    try:
        check_gaussian(np.asarray(mean), np.asarray(cov))
    except ValueError as error:
        raise ValueError(f"{path}: {tap} features: {error}") from error
    if (np.diagonal(cov) < 0).any():
        raise ValueError(f"{path}: {tap} features: a variance must not be negative")


def _facts(
    path: pathlib.Path, arrays: Mapping[str, StoredArray]
) -> dict[str, Any] | None:
    found = arrays.get(FACTS)
    if found is None:
        return None
    try:
        facts = json.loads(found.read().tobytes())
    except ValueError as error:
        raise damaged(path, f".npz of statistics: {FACTS}", error) from error
    return facts if isinstance(facts, dict) else None


def _images(
    path: pathlib.Path, arrays: Mapping[str, StoredArray]
) -> StoredArray | None:
    """The images, which a batch after the other is unpacked."""
    found = arrays.get("arr_0")
    if found is None:
        return None
    if len(found.shape) != 4 or found.dtype != np.uint8 or 0 in found.shape:
        raise ValueError(
            f"{path}: arr_0 must hold images, (n, h, w, c) uint8; got "
            f"{found.shape} {printable(str(found.dtype))}"
        )
    return found

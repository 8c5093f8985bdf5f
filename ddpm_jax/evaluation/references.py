"""What samples are measured against: images, or a file of their statistics."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import build, processes
from ddpm_jax.config import DataConfig
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.image_sets import (
    ImageSet,
    flipped,
    of_array,
    of_source,
    open_set,
)
from ddpm_jax.evaluation.measure import (
    Gaussian,
    Measured,
    chosen,
    observe,
    taps_of,
)
from ddpm_jax.evaluation.protocols import Protocol
from ddpm_jax.evaluation.statistics import (
    Reference,
    Statistics,
    read_reference,
    write_reference,
)
from ddpm_jax.interop.npz_files import read_arrays


class Real(NamedTuple):
    """What samples are measured against: images, or a file of statistics."""

    images: ImageSet | None
    statistics: pathlib.Path | None = None
    trained: bool = False  # whether the images are what the model was trained on
    held_out: ImageSet | None = None  # of the same set, not trained on


def find(
    reference: str | None,
    data: DataConfig | None,
    *,
    flip: bool = False,
    held_out: bool = False,
) -> Real:
    """What a reference on the command line names.

    Args:
        reference: a split of the data, a folder, an .npz of images or a file of
            statistics (.npz, .pkl); None = the split that was trained on.
        data: the run's; None = there is no run, and no splits.
        flip: also every image's mirror image.
        held_out: whether images are wanted that were not trained on.

    Raises:
        ValueError, OSError, ImportError: if there is no such reference.
    """
    path = pathlib.Path(reference or "").expanduser()
    if reference is not None and (data is None or _is_path(path, data)):
        if path.suffix == ".pkl" or (path.suffix == ".npz" and _has_statistics(path)):
            if flip:
                raise ValueError(f"--reference-flip needs images; {path} has none")
            return Real(None, path)
        found = open_set(path)
        return Real(flipped(found) if flip else found)
    assert data is not None
    split = reference or data.split
    if data.source == "folder" and split != data.split:
        raise ValueError(
            f"--reference must be a path, since a folder has no splits; got {split}, "
            "which does not exist"
        )
    images = _split(data, split)
    trained, unseen = split == data.split, None
    if trained and held_out and data.split != data.test_split != "":
        unseen = _held_out(data)
    return Real(flipped(images) if flip else images, None, trained, unseen)


def _is_path(path: pathlib.Path, data: DataConfig) -> bool:
    """Whether a path is meant: ./test is one, where test is a split."""
    return str(path) not in (data.split, data.test_split) and path.exists()


def _has_statistics(path: pathlib.Path) -> bool:
    return "mu" in read_arrays(path)


def _split(data: DataConfig, split: str) -> ImageSet:
    """A split of a data set, in memory or streamed; of many processes one prepares it.

    Raises:
        ValueError, OSError, ImportError: what the source raises.
    """
    return of_source(
        processes.main_first("data", lambda: build.read_images(data, split))
    )


def _held_out(data: DataConfig) -> ImageSet | None:
    """The test split, where there is one."""
    if data.source == "folder":
        return None
    try:
        return _split(data, data.test_split)
    except ValueError:
        return None


class Known(NamedTuple):
    """A reference as metrics need it, and what a protocol records of it."""

    measured: Measured
    facts: dict[str, Any]


def observe_real(
    network: FeatureNetwork,
    real: Real,
    protocol: Protocol,
    names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> Known:
    """The features of a reference, or its statistics.

    Args:
        names: of the metrics.
        image_shape: of the samples that are measured against it.

    Raises:
        ValueError: as `features.extract`; or if a file of statistics lacks what a
            metric needs, or is of other features.
        OSError: if a file cannot be read.
    """
    if real.statistics is not None:
        return _of_file(network, real.statistics, protocol, names, image_shape)
    assert real.images is not None
    found = observe(network, real.images, protocol, names, reference=True)
    found = dataclasses.replace(found, trained=real.trained, held_out=real.held_out)
    facts = {**real.images.facts, "n": real.images.num}
    if real.trained:
        unseen = None if real.held_out is None else real.held_out.name
        facts["unseen images of memorisation"] = unseen or "training images"
    return Known(found, facts)


def _of_file(
    network: FeatureNetwork,
    path: pathlib.Path,
    protocol: Protocol,
    names: Sequence[str],
    image_shape: tuple[int, int, int],
) -> Known:
    """Statistics, and the features of the first images that lie beside them.

    OpenAI's evaluator takes 10,000 for precision and recall.
    """
    stored = read_reference(path, tap=protocol.taps.pooled)
    _check_features(path, stored, network)
    facts: dict[str, Any] = {"file": str(path), "sha256": stored.checksum}
    facts["features"] = stored.facts or "of a network that the file does not name"
    taps, whole = taps_of(protocol, names, reference=True)
    features: Mapping[str, np.ndarray] = {}
    if whole and stored.images is not None:
        some = of_array(stored.images.read(), str(path), {})
        features = observe(network, some, protocol, names, reference=True).features
        facts["images with features"] = some.num
    gaussians = {}
    for tap in taps & (set(stored.features) | _compared(protocol, names)):
        found = stored.statistics(tap, dimension(network, tap, image_shape))
        gaussians[tap] = Gaussian(found.mean, found.cov)
        facts["n"] = found.images
    num = facts.get("n") or 0
    measured = Measured(num=num, gaussians=gaussians, features=features, chosen=True)
    return Known(measured, facts)


def _check_features(
    path: pathlib.Path, stored: Reference, network: FeatureNetwork
) -> None:
    """Refuses statistics that this project made of another network's features."""
    for name, theirs in (stored.facts or {}).items():
        if (ours := getattr(network, name, None)) != theirs:
            raise ValueError(
                f"{path} holds statistics of other features: their {name} is {theirs}, "
                f"and the protocol's network has {ours}"
            )


def _compared(protocol: Protocol, names: Sequence[str]) -> set[str]:
    """The features whose moments a metric cannot do without."""
    return {
        metric.tap(protocol.taps)
        for metric in chosen(names)
        if metric.tap is not None and metric.reference and not metric.whole_reference
    }


def dimension(
    network: FeatureNetwork, tap: str, image_shape: tuple[int, int, int]
) -> int:
    """Of the features of images, without running the network."""
    channels = network.channels or image_shape[2]
    image = jax.ShapeDtypeStruct((1, *image_shape[:2], channels), np.uint8)
    return jax.eval_shape(network.apply, network.params, image)[tap].shape[1]


def keep(
    path: pathlib.Path, known: Known, protocol: Protocol, network: FeatureNetwork
) -> None:
    """Writes the statistics of a reference, for this and other evaluators.

    Raises:
        ValueError, OSError: as `write_reference`.
    """
    count = known.measured.num or None
    features = {
        tap: Statistics(found.mean, found.covariance, count)
        for tap, found in known.measured.gaussians.items()
    }
    facts = {name: getattr(network, name) for name in ("name", "checksum", "resize")}
    write_reference(path, features, tap=protocol.taps.pooled, facts=facts)

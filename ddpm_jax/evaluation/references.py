"""What samples are measured against: images, or a file of their statistics."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import build, processes
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.image_sets import ImageSet, of_array, of_arrays, open_set
from ddpm_jax.evaluation.measure import (
    Gaussian,
    Measured,
    chosen,
    observe,
    taps_of,
)
from ddpm_jax.evaluation.protocols import Protocol
from ddpm_jax.evaluation.statistics import (
    Statistics,
    read_reference,
    write_reference,
)
from ddpm_jax.interop.npz_files import read_npz


class Real(NamedTuple):
    """What samples are measured against: images, or a file of statistics."""

    images: ImageSet | None
    statistics: pathlib.Path | None = None
    held_out: ImageSet | None = None  # of the same set, not trained on


def find(reference: str | None, data: DataConfig | None, *, flip: bool = False) -> Real:
    """What a reference on the command line names.

    Args:
        reference: a folder, an .npz of images, a file of statistics (.npz, .pkl) or a
            split of the data; None = the split that was trained on.
        data: the run's; None = there is no run, and no splits.
        flip: of a split, also every image's mirror image.

    Raises:
        ValueError, OSError, ImportError: if there is no such reference.
    """
    if reference is not None and (data is None or os.path.exists(reference)):
        path = pathlib.Path(reference).expanduser()
        if path.suffix == ".pkl" or (path.suffix == ".npz" and holds_statistics(path)):
            return Real(None, path)
        return Real(open_set(path))
    assert data is not None
    split = reference or data.split
    if data.source == "folder" and split != data.split:
        raise ValueError(
            f"--reference must be a path, since a folder has no splits; got {split}, "
            "which does not exist"
        )
    images = of_arrays(_load(data, split), flip=flip)
    held_out = None
    if split == data.split != data.test_split and data.source != "folder":
        held_out = of_arrays(_load(data, data.test_split))
    return Real(images, held_out=held_out)


def _load(data: DataConfig, split: str) -> ImageArrays:
    """A split; of many processes one prepares it."""
    return processes.main_first("data", lambda: build.load_images(data, split))


def holds_statistics(path: pathlib.Path) -> bool:
    """Whether an .npz holds the statistics of features, and not images alone."""
    return "mu" in read_npz(path)


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
    found = dataclasses.replace(found, held_out=real.held_out)
    return Known(found, {**real.images.facts, "n": real.images.num})


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
    facts: dict[str, Any] = {"file": str(path), "sha256": stored.checksum}
    taps, whole = taps_of(protocol, names, reference=True)
    features: Mapping[str, np.ndarray] = {}
    if whole and stored.images is not None:
        images = stored.images.read()[: protocol.references]
        some = of_array(images, str(path), {})
        features = observe(network, some, protocol, names, reference=True).features
        facts["images with features"] = some.num
    gaussians = {}
    for tap in taps & (set(stored.features) | _compared(protocol, names)):
        found = stored.statistics(tap, dimension(network, tap, image_shape))
        gaussians[tap] = Gaussian(found.mean, found.cov)
        facts["n"] = found.images
    return Known(Measured(num=0, gaussians=gaussians, features=features), facts)


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


def keep(path: pathlib.Path, known: Known, protocol: Protocol) -> None:
    """Writes the statistics of a reference, for this and other evaluators.

    Raises:
        ValueError, OSError: as `write_reference`.
    """
    measured = known.measured
    features = {
        tap: Statistics(found.mean, found.covariance, measured.num)
        for tap, found in measured.gaussians.items()
    }
    write_reference(path, features, tap=protocol.taps.pooled)

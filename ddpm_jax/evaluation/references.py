"""What samples are measured against: images, or a file of their statistics."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.image_sets import ImageSet, of_array
from ddpm_jax.evaluation.measure import Gaussian, Measured, chosen, observe
from ddpm_jax.evaluation.protocols import Protocol
from ddpm_jax.evaluation.statistics import (
    Statistics,
    read_reference,
    write_reference,
)


class Known(NamedTuple):
    """A reference as metrics need it, and what a protocol records of it."""

    measured: Measured
    facts: dict[str, Any]


def of_images(
    network: FeatureNetwork,
    images: ImageSet,
    protocol: Protocol,
    names: Sequence[str],
    *,
    batch_size: int = 64,
) -> Known:
    """A reference of real images.

    Raises:
        ValueError: as `features.extract`.
    """
    measured = observe(
        network, images, protocol, names, reference=True, batch_size=batch_size
    )
    return Known(measured, {**images.facts, "images": images.num})


def of_file(
    network: FeatureNetwork,
    path: pathlib.Path,
    protocol: Protocol,
    names: Sequence[str],
    image_shape: tuple[int, int, int],
    *,
    batch_size: int = 64,
) -> Known:
    """A reference of statistics; features are those of the images beside them.

    The protocol's first images make up the features, as OpenAI's evaluator takes 10,000
    for precision and recall.

    Args:
        image_shape: of the samples that are measured against it.

    Raises:
        ValueError: if the file lacks what a metric needs, or is of other features.
        OSError: if it cannot be read.
    """
    pooled = protocol.taps.pooled
    stored = read_reference(path, tap=pooled)
    facts = {"file": str(path), "sha256": stored.checksum}
    metrics = chosen(names)
    whole = {metric.tap(protocol.taps) for metric in metrics if metric.whole_reference}
    features: dict[str, np.ndarray] = {}
    if whole and stored.images is not None:
        images = of_array(stored.images.read()[: protocol.references], str(path), {})
        found = observe(
            network, images, protocol, names, reference=True, batch_size=batch_size
        )
        features = dict(found.features)
        facts["images"] = images.num
    taps = {m.tap(protocol.taps) for m in metrics if not m.whole_reference}
    gaussians = {}
    for tap in taps - {None, protocol.taps.logits}:
        found = stored.statistics(tap, _dimension(network, tap, image_shape))
        gaussians[tap] = Gaussian(found.mean, found.cov)
        if (counted := stored.features[tap].images) is not None:
            facts["statistics of images"] = counted
    num = facts.get("images", 0)
    return Known(Measured(num=num, gaussians=gaussians, features=features), facts)


def _dimension(
    network: FeatureNetwork, tap: str, image_shape: tuple[int, int, int]
) -> int:
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

"""The metrics of a protocol, of images against a reference.

A new metric is a function in a file of its own and a row of `METRICS`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation.features import FeatureNetwork, Features, extract
from ddpm_jax.evaluation.frechet import (
    frechet_distance,
    frechet_error,
    frechet_infinity,
)
from ddpm_jax.evaluation.image_sets import ImageSet
from ddpm_jax.evaluation.inception_score import chunked, inception_score
from ddpm_jax.evaluation.kernel import kernel_distance_subsets
from ddpm_jax.evaluation.moments import Moments, covariance, merge, moments
from ddpm_jax.evaluation.neighbours import (
    density_coverage,
    memorisation_in,
    precision_recall,
)
from ddpm_jax.evaluation.protocols import Protocol, Taps
from ddpm_jax.evaluation.sliced import mind

ROWS = 1024  # features whose moments are taken at a time
MEMORISED = 2000  # samples, at most, whose nearest training image is looked for
SHUFFLE = 2020  # of images before they are split; torch-fidelity's
KID_SIZE, KID_SUBSETS = 1000, 100
NEAREST = 5  # of density and coverage


class Gaussian(NamedTuple):
    """The mean (d,) and covariance (d, d) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of the features of a set of images, by tap.

    Attributes:
        num: images.
        gaussians: the mean and covariance of each tap.
        features: (num, d), only of taps that a metric needs whole.
        images: themselves.
        trained: of a reference, whether the model was trained on it.
        held_out: of a reference, images of the same set that it was not trained on.
        chosen: of a reference, whether its images were chosen, and none is to be left
            out.
    """

    num: int
    gaussians: Mapping[str, Gaussian]
    features: Mapping[str, np.ndarray]
    images: ImageSet | None = None
    trained: bool = False
    held_out: ImageSet | None = None
    chosen: bool = False


class Value(NamedTuple):
    """One figure; its spread where the metric has one of its own, else NaN."""

    value: float
    spread: float = math.nan  # of splits, of subsets, of a fit


class Metric(NamedTuple):
    """One computation that gives one metric or several."""

    names: tuple[str, ...]
    compute: Callable[[Measured, Measured, Protocol], Sequence[Value]]
    tap: Callable[[Taps], str] | None  # which features; None = pixels
    whole: bool = True  # of the samples, beyond mean and covariance
    whole_reference: bool = True  # and of the reference
    reference: bool = True  # whether it compares with one


def _pooled(taps: Taps) -> str:
    return taps.pooled


def _frechet(tap: Callable[[Taps], str]):
    def compute(samples: Measured, reference: Measured, protocol: Protocol):
        name = tap(protocol.taps)
        ours, theirs = samples.gaussians[name], reference.gaussians[name]
        error = math.nan
        if name in samples.features:
            error = frechet_error(samples.features[name], *theirs)
        return [Value(frechet_distance(*ours, *theirs), error)]

    return compute


def _memorised(samples: Measured, reference: Measured, protocol: Protocol):
    ours, train, held_out = samples.images, reference.images, reference.held_out
    assert ours is not None and train is not None
    if ours.image_shape != train.image_shape:
        raise ValueError(
            "memorisation needs samples of the size of the training images; got "
            f"{ours.image_shape} and {train.image_shape}"
        )
    others = train if held_out is None else held_out
    ratio = memorisation_in(
        _first_pixels(ours),
        lambda: map(_pixels, train.batches()),
        _first_pixels(others),
        trained=held_out is None,
    )
    return [Value(ratio)]


def _first_pixels(images: ImageSet) -> np.ndarray:
    rows: list[np.ndarray] = []
    for batch in images.batches():
        rows.append(_pixels(batch))
        if sum(map(len, rows)) >= MEMORISED:
            break
    return np.concatenate(rows)[:MEMORISED]


def _pixels(images: np.ndarray) -> np.ndarray:
    """Images as rows in [-1, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1


def _infinity(samples: Measured, reference: Measured, protocol: Protocol):
    tap = protocol.taps.pooled
    found = frechet_infinity(samples.features[tap], *reference.gaussians[tap])
    return [Value(*found)]


def _inception_score(samples: Measured, reference: Measured, protocol: Protocol):
    logits = samples.features[protocol.taps.logits]
    if protocol.chunks is not None:
        return [Value(chunked(logits, protocol.chunks))]
    return [Value(*inception_score(logits, seed=SHUFFLE))]


def _of_features(
    function: Callable[[np.ndarray, np.ndarray, Protocol], Sequence], *, some: bool
):
    """Of the features of samples and reference; of some of these as protocols say."""

    def compute(samples: Measured, reference: Measured, protocol: Protocol):
        tap = protocol.taps.pooled
        theirs, most = reference.features[tap], protocol.references
        if some and most is not None and len(theirs) > most and not reference.chosen:
            # The first of a folder would be those of a few classes.
            theirs = theirs[np.random.default_rng(SHUFFLE).permutation(len(theirs))]
            theirs = theirs[:most]
        found = function(samples.features[tap], theirs, protocol)
        return [Value(x) if isinstance(x, float) else x for x in found]

    return compute


def _kid(samples: np.ndarray, reference: np.ndarray, protocol: Protocol):
    size = min(KID_SIZE, len(samples), len(reference))
    found = kernel_distance_subsets(samples, reference, size=size, subsets=KID_SUBSETS)
    return [Value(*found)]


def _precision(samples: np.ndarray, reference: np.ndarray, protocol: Protocol):
    return precision_recall(samples, reference, neighbours=protocol.neighbours)


def _density(samples: np.ndarray, reference: np.ndarray, protocol: Protocol):
    return density_coverage(samples, reference, neighbours=NEAREST)


def _mind(samples: np.ndarray, reference: np.ndarray, protocol: Protocol):
    return [mind(samples, reference)]


_MOMENTS = {"whole": False, "whole_reference": False}
METRICS = (
    Metric(("fid",), _frechet(_pooled), _pooled, **_MOMENTS),
    Metric(("fd",), _frechet(_pooled), _pooled, **_MOMENTS),
    Metric(("fd_infinity",), _infinity, _pooled, whole_reference=False),
    Metric(
        ("sfid",),
        _frechet(lambda taps: taps.spatial),
        lambda taps: taps.spatial,
        **_MOMENTS,
    ),
    Metric(
        ("is",),
        _inception_score,
        lambda taps: taps.logits,
        whole_reference=False,
        reference=False,
    ),
    Metric(("kid",), _of_features(_kid, some=False), _pooled),
    Metric(("precision", "recall"), _of_features(_precision, some=True), _pooled),
    Metric(("density", "coverage"), _of_features(_density, some=True), _pooled),
    Metric(("mind",), _of_features(_mind, some=False), _pooled),
    Metric(("memorisation",), _memorised, None),
)
# What is better: lower where nothing is said here.
BETTER = dict.fromkeys(("is", "precision", "recall", "coverage"), "higher")
BETTER |= dict.fromkeys(("density", "memorisation"), "near 1")


def chosen(names: Iterable[str]) -> list[Metric]:
    """The computations that these metrics need.

    Raises:
        ValueError: if there is no such metric.
    """
    names = list(names)
    known = [name for metric in METRICS for name in metric.names]
    for name in names:
        if name not in known:
            raise ValueError(f"a metric is one of {', '.join(known)}; got {name}")
    return [metric for metric in METRICS if set(metric.names) & set(names)]


def measure(
    samples: Measured,
    reference: Measured,
    protocol: Protocol,
    names: Sequence[str],
    *,
    optional: Collection[str] = (),
) -> tuple[dict[str, Value], dict[str, str]]:
    """The metrics by name, in the order asked for.

    Args:
        optional: metrics that are left out where they cannot be computed.

    Returns:
        The metrics, and why others were left out.

    Raises:
        ValueError: if there is no such metric, or the features lack what one needs.
    """
    found: dict[str, Value] = {}
    missing: dict[str, str] = {}
    for metric in chosen(names):
        wanted = [name for name in metric.names if name in names]
        try:
            _check_held(metric, reference, protocol)
            values = metric.compute(samples, reference, protocol)
        except ValueError as error:
            if not set(wanted) <= set(optional):
                raise
            missing |= dict.fromkeys(wanted, str(error))
        else:
            found |= dict(zip(metric.names, values, strict=True))
    return {name: found[name] for name in names if name in found}, missing


def check_possible(
    reference: Measured,
    protocol: Protocol,
    names: Sequence[str],
    *,
    optional: Collection[str] = (),
) -> None:
    """Holds that metrics can be told from a reference, before samples are drawn.

    Args:
        reference: as for `measure`.
        protocol: as for `measure`.
        names: as for `measure`.
        optional: as for `measure`.

    Raises:
        ValueError: if one that is not optional cannot.
    """
    for metric in chosen(names):
        if not set(metric.names) & set(names) <= set(optional):
            _check_held(metric, reference, protocol)


def _check_held(metric: Metric, reference: Measured, protocol: Protocol) -> None:
    if metric.tap is None:
        if reference.images is None or not reference.trained:
            raise ValueError(
                "memorisation is told from the images that the model was trained on; "
                "the reference is not known to be these"
            )
        return
    if metric.names == ("fid",) and protocol.network != "inception":
        raise ValueError(
            f"FID is told from Inception's features; {protocol.name} has fd, of others"
        )
    tap = metric.tap(protocol.taps)
    if not tap:
        raise ValueError(f"{protocol.name}'s network has nothing for {metric.names[0]}")
    held = reference.features if metric.whole_reference else reference.gaussians
    if tap not in held and metric.reference:
        kind = "features" if metric.whole_reference else "mean and covariance"
        raise ValueError(
            f"{' and '.join(metric.names)} must have the reference's {kind} of the tap "
            f"{tap}; it has those of {', '.join(held) or 'none'}"
        )


def taps_of(
    protocol: Protocol, names: Sequence[str], *, reference: bool
) -> tuple[set[str], set[str]]:
    """The features that metrics need, and of which they need more than moments.

    Args:
        reference: of the reference of the metrics, or else of the samples.
    """
    taps, whole = set(), set()
    for metric in chosen(names):
        tap = "" if metric.tap is None else metric.tap(protocol.taps)
        if not tap or (reference and not metric.reference):
            continue
        taps.add(tap)
        if metric.whole_reference if reference else metric.whole:
            whole.add(tap)
    return taps, whole


def observe(
    network: FeatureNetwork,
    images: ImageSet,
    protocol: Protocol,
    names: Sequence[str],
    *,
    reference: bool,
    batch_size: int = 64,
) -> Measured:
    """The features of images as metrics need them; held whole only where one does.

    Args:
        names: of the metrics.
        reference: whether the images are the reference of the metrics, or the samples.

    Raises:
        ValueError: as `extract`.
    """
    taps, whole = taps_of(protocol, names, reference=reference)
    if not taps:
        return Measured(num=images.num, gaussians={}, features={}, images=images)
    totals: dict[str, Moments] = {}
    kept: dict[str, np.ndarray] = {}
    done = 0
    parts = extract(
        network,
        images.batches(),
        taps=sorted(taps),
        batch_size=batch_size,
        grey="replicate" if protocol.grey else None,
    )
    for part in _joined(parts):
        for tap, rows in part.items():
            if tap != protocol.taps.logits:
                new = moments(rows)
                totals[tap] = merge(totals[tap], new) if tap in totals else new
            if tap in whole:
                if tap not in kept:
                    kept[tap] = np.empty((images.num, rows.shape[1]), np.float32)
                kept[tap][done : done + len(rows)] = rows
        done += len(rows)
    ddof = protocol.covariance_ddof
    return Measured(
        num=images.num,
        gaussians={
            tap: Gaussian(total.mean, covariance(total, ddof))
            for tap, total in totals.items()
        },
        features=kept,
        images=images,
    )


def _joined(parts: Iterable[Features]) -> Iterable[Features]:
    """The same rows, at least `ROWS` at a time but for the last."""
    waiting: list[Features] = []
    for part in parts:
        waiting.append(part)
        if sum(len(next(iter(x.values()))) for x in waiting) >= ROWS:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(parts: list[Features]) -> Features:
    return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}

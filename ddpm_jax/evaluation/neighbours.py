"""Metrics of nearest neighbours: fidelity, diversity and copies, each on its own.

No matrix of all distances lies in memory: 50,000 samples against 50,000 images take a
few hundred megabytes beyond the features.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.rows import BLOCK, as_pair, as_rows, blocks

_MOST = 2**24  # distances at once


class PrecisionRecall(NamedTuple):
    """Shares in 0..1 (Kynkäänniemi et al. 2019).

    Attributes:
        precision: of samples that are like some real image.
        recall: of real images that some sample is like.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """As precision and recall, but less moved by outliers (Naeem et al. 2020).

    Attributes:
        density: 1 for equal distributions; can be more.
        coverage: a share, near 1 for equal distributions.
    """

    density: float
    coverage: float


def precision_recall(
    samples: ArrayLike, real: ArrayLike, *, neighbours: int = 3
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    A point is like a set if it lies in the ball around one of its members that reaches
    to that member's k-th nearest other member.

    Args:
        samples: (n, d).
        real: (m, d).
        neighbours: k.

    Returns:
        Both shares.

    Raises:
        ValueError: if a set has no more than k images, ranks or dimensions differ, or
            for NaN.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.evaluation.neighbours import precision_recall
        >>> real = np.random.default_rng(0).normal(size=(500, 2))
        >>> precision_recall(0.3 * real, real).precision > 0.95
        True
        >>> precision_recall(0.3 * real, real).recall < 0.6
        True
    """
    a, b = as_pair(samples, real, ("samples", "real images"))
    of_samples, of_real = _radii(a, neighbours), _radii(b, neighbours)
    inside, reached = [], np.zeros(len(b), bool)
    for rows, between in _distances(a, b):
        inside.append((between <= of_real).any(1))
        reached |= (between <= of_samples[rows, None]).any(0)
    return PrecisionRecall(float(np.concatenate(inside).mean()), float(reached.mean()))


def density_coverage(
    samples: ArrayLike, real: ArrayLike, *, neighbours: int = 5
) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020), both of balls around real images.

    Args:
        samples: (n, d).
        real: (m, d).
        neighbours: k: a ball reaches to the k-th nearest other real image.

    Returns:
        Both.

    Raises:
        ValueError: as `precision_recall`.
    """
    a, b = as_pair(samples, real, ("samples", "real images"))
    radii = _radii(b, neighbours)
    within = np.zeros(len(b), np.int64)  # samples in the ball of each real image
    for _, between in _distances(a, b):
        within += (between <= radii).sum(0)
    density = within.sum() / (neighbours * len(a))
    return DensityCoverage(float(density), float((within > 0).mean()))


def memorisation(
    samples: ArrayLike, train: ArrayLike, held_out: ArrayLike | None = None
) -> float:
    """How near samples lie to the training set, over how near unseen images do.

    The ratio of the medians of the distances to the nearest training image, this
    package's own. Much below 1 samples are copies, or blurred; above 1 they are unlike
    any image.

    Args:
        samples: (n, d).
        train: (m, d).
        held_out: (k, d); without them the training images themselves, each to the
            nearest other one.

    Returns:
        The ratio.

    Raises:
        ValueError: if there are fewer than 2 of any, ranks or dimensions differ, for
            NaN, and where unseen images lie on training images.
    """
    own = np.median(nearest_distances(samples, train))
    if held_out is None:
        yardstick = np.median(nearest_distances(train, train, rank=1))
    else:
        yardstick = np.median(nearest_distances(held_out, train))
    return _over(own, yardstick)


def memorisation_in(
    samples: ArrayLike,
    train: Callable[[], Iterable[np.ndarray]],
    unseen: ArrayLike,
    *,
    trained: bool = False,
) -> float:
    """`memorisation` where the training set is read batch by batch; this package's own.

    Args:
        samples: (n, d).
        train: gives the training set, (m, d) at a time, as often as it is called.
        unseen: (k, d).
        trained: whether the unseen images are some of the training set, for want of
            others; each is then compared with the nearest other one.

    Returns:
        The ratio.

    Raises:
        ValueError: as `memorisation`.
    """
    own = _nearest_in(as_rows(samples, "samples"), train())
    others = _nearest_in(as_rows(unseen, "held-out images"), train(), rank=int(trained))
    return _over(np.median(own), np.median(others))


def _nearest_in(
    rows: np.ndarray, batches: Iterable[np.ndarray], rank: int = 0
) -> np.ndarray:
    best = np.full((len(rows), rank + 1), np.inf)
    for batch in batches:
        found = np.concatenate([best, distances(rows, batch)], axis=1)
        best = np.partition(found, rank, axis=1)[:, : rank + 1]
    return best[:, rank]


def _over(own: np.floating, yardstick: np.floating) -> float:
    if yardstick == 0:
        raise ValueError(
            "held-out images must differ from training images; half of them are copies"
        )
    return float(own / yardstick)


def nearest_distances(a: ArrayLike, b: ArrayLike, rank: int = 0) -> np.ndarray:
    """L2 distance of every row of `a` to its nearest row of `b`.

    Args:
        a: (n, d).
        b: (m, d).
        rank: 0 is the nearest, 1 the nearest but one: for `a` within `b`.

    Returns:
        (n,) float64.

    Raises:
        ValueError: if there are fewer than 2 rows or no such rank, ranks or dimensions
            differ, or for NaN.
    """
    first, second = as_pair(a, b, ("samples", "training images"))
    if not 0 <= rank < len(second):
        raise ValueError(f"rank must be in 0..{len(second) - 1}; got {rank}")
    return _ranked(first, second, rank)


def distances(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """L2 distances of all rows of `a` to all of `b`; of small sets.

    Args:
        a: (n, d).
        b: (m, d).

    Returns:
        (n, m) float64.

    Raises:
        ValueError: if ranks differ, or for NaN.
    """
    first, second = as_rows(a, least=1), as_rows(b, least=1)
    return np.concatenate([between for _, between in _distances(first, second)])


def _radii(rows: np.ndarray, neighbours: int) -> np.ndarray:
    """The distance of each to its k-th nearest other one."""
    if not 1 <= neighbours < len(rows):
        raise ValueError(
            f"neighbours must be in 1..{len(rows) - 1}, the other images of a set; got "
            f"{neighbours}"
        )
    return _ranked(rows, rows, neighbours)  # rank 0 is itself


def _ranked(a: np.ndarray, b: np.ndarray, rank: int) -> np.ndarray:
    found = [np.partition(x, rank, axis=1)[:, rank] for _, x in _distances(a, b)]
    return np.concatenate(found)


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(which rows of `a`, their distances to all of `b`), block by block."""
    centre = b.mean(0, dtype=np.float64)  # near 0 less is lost to rounding
    norms = np.concatenate([((y - centre) ** 2).sum(1) for y in blocks(b)])
    size = max(1, min(BLOCK, _MOST // len(b)))
    first = 0
    for x in blocks(a, size):
        x = x - centre
        squared = np.concatenate([x @ (y - centre).T for y in blocks(b)], axis=1)
        scale = (x**2).sum(1)[:, None] + norms
        squared *= -2
        squared += scale
        # What is below the rounding of these sums is 0: a copy lies at no distance.
        scale *= a.shape[1] * np.finfo(np.float64).eps
        squared[squared <= scale] = 0
        yield slice(first, first + len(x)), np.sqrt(squared, out=squared)
        first += len(x)

"""The Fréchet distance between Gaussians (FID: Heusel et al. 2017), in float64."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.moments import covariance, moments
from ddpm_jax.evaluation.rows import as_rows, blocks, check_dimensions


class Extrapolation(NamedTuple):
    """A distance as it would be with infinitely many samples (Chong & Forsyth 2020).

    Attributes:
        value: the distance, in squared units of the features.
        error: its standard error: of the fit, and of the samples' number.
    """

    value: float
    error: float


def frechet_distance(
    mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike
) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)).

    FID: Heusel et al. 2017 (Dowson & Landau 1982). Exact for covariances of any rank:
    nothing is added to their diagonals.

    Args:
        mean1: (d,).
        cov1: (d, d), symmetric.
        mean2: (d,).
        cov2: (d, d), symmetric.

    Returns:
        The distance, at least 0, in squared units of the features.

    Raises:
        ValueError: if shapes differ, or anything is not finite or not symmetric.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.evaluation.frechet import frechet_distance
        >>> cov = np.eye(2)
        >>> round(frechet_distance([0.0, 0.0], cov, [3.0, 4.0], cov), 6)
        25.0
        >>> round(frechet_distance([0.0, 0.0], cov, [0.0, 0.0], 4 * cov), 6)
        2.0
    """
    first, second = _gaussian(mean1, cov1), _gaussian(mean2, cov2)
    check_dimensions(len(first[0]), len(second[0]), ("one Gaussian", "the other"))
    # The eigenvalues of C1^(1/2) C2 C1^(1/2) are the squares of the singular values of
    # F1^T F2; taken from the product itself, their roots would lose half the digits.
    cross = factor(first[1]).T @ factor(second[1])
    overlap = np.linalg.svd(cross, compute_uv=False).sum() if cross.size else 0.0
    return max(_distance(*first, *second, overlap), 0.0)


def frechet_infinity(
    features: ArrayLike,
    mean: ArrayLike,
    cov: ArrayLike,
    *,
    points: int = 15,
    seed: int = 0,
) -> Extrapolation:
    """The distance of samples to a reference, freed of the bias of their number.

    Distances of random subsets are linear in 1/n, and the line is followed to 0 (Chong
    & Forsyth 2020). The subsets have from 5,000 (or half of all, if fewer) up to all
    samples. The error joins that of the line and `frechet_error`, since all subsets are
    of the same samples.

    Args:
        features: (n, d) of the samples, n >= 2 `points`; the line is straight where n
            is well above d.
        mean: of the reference, (d,).
        cov: of the reference, (d, d).
        points: subsets, at least 3.
        seed: of the subsets.

    Returns:
        The distance and its standard error.

    Raises:
        ValueError: as for `frechet_distance`, and for fewer samples.
    """
    rows = as_rows(features)
    centre, spread = _gaussian(mean, cov)
    check_dimensions(rows.shape[1], len(centre))
    if points < 3:
        raise ValueError(f"points must be at least 3; got {points}")
    if len(rows) < 2 * points:
        raise ValueError(
            f"FID at infinity needs at least {2 * points} samples; got {len(rows)}"
        )
    root = factor(spread)
    rng = np.random.default_rng(seed)
    least = min(5000, len(rows) // 2)
    counts = np.linspace(least, len(rows), points).astype(int)
    distances = []
    for count in counts:
        part = moments(rows[rng.permutation(len(rows))[:count]])
        own = covariance(part)
        squares = np.linalg.eigvalsh(root.T @ own @ root)
        overlap = np.sqrt(squares.clip(0)).sum()  # digits enough for a fit
        distances.append(_distance(part.mean, own, centre, spread, overlap))
    value, error = _intercept(1 / counts, np.array(distances))
    return Extrapolation(value, math.hypot(error, frechet_error(rows, mean, cov)))


def frechet_error(features: ArrayLike, mean: ArrayLike, cov: ArrayLike) -> float:
    """The standard error of the distance of so many samples to a reference.

    This package's, by the delta method: one sample x moves the distance by 2 (m1 -
    m2).z + z^T (I - T) z with z = x - m1, where T is the optimal transport map between
    the Gaussians. Where both are nearly the same it is too large, not too small.

    Args:
        features: (n, d) of the samples, n at least 2.
        mean: of the reference, (d,).
        cov: of the reference, (d, d).

    Returns:
        The error, in the units of the distance.

    Raises:
        ValueError: as for `frechet_distance`, and for fewer samples.
    """
    rows, (centre, spread) = as_rows(features), _gaussian(mean, cov)
    check_dimensions(rows.shape[1], len(centre))
    own, root = moments(rows), factor(spread)
    squares, turn = np.linalg.eigh(root.T @ covariance(own) @ root)
    kept = squares > len(squares) * np.finfo(np.float64).eps * squares.max(initial=0)
    half = root @ turn[:, kept] / squares[kept] ** 0.25
    form = np.eye(len(centre)) - half @ half.T
    moved = []
    for block in blocks(rows):
        z = block - own.mean
        moved.append(z @ (own.mean - centre) * 2 + ((z @ form) * z).sum(1))
    return float(np.std(np.concatenate(moved), ddof=1) / np.sqrt(len(rows)))


def factor(cov: np.ndarray) -> np.ndarray:
    """A matrix F with F F^T = cov.

    Eigenvalues below the rounding of the largest are 0: their roots would not be.

    Args:
        cov: (d, d), symmetric.

    Returns:
        F, (d, k), k being the rank.
    """
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    rounding = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])


def _distance(
    mean1: np.ndarray,
    cov1: np.ndarray,
    mean2: np.ndarray,
    cov2: np.ndarray,
    overlap: float,
) -> float:
    apart = mean1 - mean2
    return float(apart @ apart + np.trace(cov1) + np.trace(cov2) - 2 * overlap)


def _intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of the least-squares line, at x = 0, and its standard error."""
    apart = x - x.mean()
    slope = apart @ y / (apart @ apart)
    value = y.mean() - slope * x.mean()
    residual = y - value - slope * x
    variance = residual @ residual / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / (apart @ apart)))
    return float(value), float(error)


def _gaussian(mean: ArrayLike, cov: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64."""
    centre, spread = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    check_gaussian(centre, spread)
    return centre, spread


def check_gaussian(mean: np.ndarray, cov: np.ndarray) -> None:
    """Refuses what is no mean and covariance of one dimension.

    Args:
        mean: (d,).
        cov: (d, d).

    Raises:
        ValueError: if shapes differ, or anything is not finite or not symmetric.
    """
    if mean.ndim != 1 or not mean.size or cov.shape != 2 * mean.shape:
        raise ValueError(
            "a mean and a covariance must have the shapes (d,) and (d, d); got "
            f"{mean.shape} and {cov.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("a mean and a covariance must be finite; they hold NaN or inf")
    apart = np.abs(cov - cov.T).max()
    if apart > 1e-5 * np.abs(cov).max():
        raise ValueError(
            f"a covariance must be symmetric; two of its elements differ by {apart:.3g}"
        )

"""Mean and covariance of features that are never held all at once, in float64."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.rows import BLOCK, as_rows, blocks, check_dimensions


class Moments(NamedTuple):
    """What FID needs of a set of features; sets are joined by `merge`.

    Attributes:
        count: of images.
        mean: (d,) float64.
        scatter: the sum of (x - mean) (x - mean)^T, (d, d) float64.
    """

    count: int  # type: ignore[assignment]  # a tuple's own has no use here
    mean: np.ndarray
    scatter: np.ndarray


def empty(dimension: int) -> Moments:
    """The moments of no features.

    Args:
        dimension: d.
    """
    return Moments(0, np.zeros(dimension), np.zeros((dimension, dimension)))


def moments(features: ArrayLike) -> Moments:
    """The moments of features.

    Args:
        features: (n, d), n >= 1.

    Raises:
        ValueError: if it has another rank, no rows, or NaN.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.evaluation.moments import covariance, moments
        >>> found = moments(np.array([[0.0, 1.0], [2.0, 5.0]]))
        >>> found.count, found.mean.tolist(), covariance(found).tolist()
        (2, [1.0, 3.0], [[2.0, 4.0], [4.0, 8.0]])
    """
    return moments_of([features])


def moments_of(batches: Iterable[ArrayLike]) -> Moments:
    """The moments of features that come in batches.

    Args:
        batches: (n, d) each, of any sizes and types.

    Raises:
        ValueError: if there are none, or a batch has another rank, dimension, or NaN.
    """
    result = None
    for block in _whole_blocks(batches):
        mean = block.mean(0)
        centred = block - mean
        part = Moments(len(block), mean, centred.T @ centred)
        result = part if result is None else merge(result, part)
    if result is None:
        raise ValueError("features must be of at least 1 image; got 0")
    return result


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two sets together (Chan, Golub & LeVeque 1979, pairwise update).

    Args:
        a: of one set.
        b: of the other.

    Raises:
        ValueError: if their dimensions differ.
    """
    check_dimensions(len(a.mean), len(b.mean))
    count = a.count + b.count
    if count == 0:
        return a
    apart = b.mean - a.mean
    mean = a.mean + apart * (b.count / count)
    scatter = a.scatter + b.scatter
    scatter += np.outer(apart, apart * (a.count * b.count / count))
    return Moments(count, mean, scatter)


def covariance(moments: Moments, ddof: int = 1) -> np.ndarray:
    """The covariance; divided by n - ddof, which is n - 1 in every public FID.

    Args:
        moments: of n features.
        ddof: what is taken from their number.

    Returns:
        (d, d) float64.

    Raises:
        ValueError: if there are fewer than 2 images.
    """
    if moments.count < 2:
        raise ValueError(
            f"a covariance must be of at least 2 images; got {moments.count}"
        )
    return moments.scatter / (moments.count - ddof)


def pooled(own: Moments) -> Moments:
    """Of the features of all processes; the same, to the bit, in every process.

    All processes call it; one that has no features brings `empty`.

    Args:
        own: of the features of this process.
    """
    if jax.process_count() == 1:
        return own
    counts = _gathered(np.array([own.count], np.float64))[:, 0]
    means, total = _gathered(own.mean), counts.sum()
    if total == 0:
        return own
    mean = counts @ means / total
    apart = means - mean
    scatter = (apart * counts[:, None]).T @ apart
    for first in range(0, len(mean), BLOCK):  # not the matrices of all at once
        rows = slice(first, first + BLOCK)
        scatter[rows] += _gathered(own.scatter[rows]).sum(0)
    return Moments(int(total), mean, scatter)


def _gathered(own: np.ndarray) -> np.ndarray:
    """Float64 of all processes, (processes, ...)."""
    # As integers: on the way JAX would round to float32.
    words = np.ascontiguousarray(own, np.float64).view(np.uint32)
    return np.asarray(multihost_utils.process_allgather(words)).view(np.float64)


def _whole_blocks(batches: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
    """The rows of all batches in order as float64, `BLOCK` at a time, then the rest.

    A merge costs as much as a few hundred rows, so small batches are joined.
    """
    waiting: list[np.ndarray] = []
    count, dimension = 0, None
    for batch in batches:
        rows = as_rows(batch, least=0)
        dimension = rows.shape[1] if dimension is None else dimension
        if rows.shape[1] != dimension:
            check_dimensions(dimension, rows.shape[1], ("a batch", "the next"))
        for block in blocks(rows):
            waiting.append(block)
            count += len(block)
            if count >= BLOCK:
                joined = np.concatenate(waiting)
                yield joined[:BLOCK]
                waiting = [joined[BLOCK:].copy()] if count > BLOCK else []
                count -= BLOCK
    if count:
        yield np.concatenate(waiting)

"""Features as rows: what every metric asks of them, and blocks that fit a memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 1024  # rows that become float64 at once


def as_rows(features: ArrayLike, name: str = "features", least: int = 2) -> np.ndarray:
    """The array as it is, if it has the shape (n, d), n >= `least`, finite numbers.

    Args:
        features: (n, d).
        name: is named in the error.
        least: rows that there must be.

    Returns:
        (n, d).

    Raises:
        ValueError: for anything else.
    """
    rows = np.asarray(features)
    if rows.dtype.kind == "V" or rows.dtype.kind not in "fiub":
        rows = _as_numbers(rows, name)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name} must have the shape (images, d); got {rows.shape}")
    if len(rows) < least:
        raise ValueError(f"{name} must be of at least {least} images; got {len(rows)}")
    for block in blocks(rows):
        if not np.isfinite(block).all():
            raise ValueError(f"{name} must be finite; they hold NaN or infinity")
    return rows


def as_pair(
    a: ArrayLike, b: ArrayLike, names: tuple[str, str] = ("samples", "reference")
) -> tuple[np.ndarray, np.ndarray]:
    """Both as `as_rows`, of the same dimension.

    Args:
        a: (n, d).
        b: (m, d).
        names: are named in the error.

    Returns:
        Both.

    Raises:
        ValueError: as `as_rows`, and if dimensions differ.
    """
    first, second = as_rows(a, names[0]), as_rows(b, names[1])
    check_dimensions(first.shape[1], second.shape[1], names)
    return first, second


def check_dimensions(
    a: int, b: int, names: tuple[str, str] = ("samples", "reference")
) -> None:
    """Raises ValueError unless both are of the same dimension."""
    if a != b:
        raise ValueError(
            f"{names[0]} and {names[1]} must be features of one network; got the "
            f"dimensions {a} and {b}"
        )


def blocks(rows: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """The rows in order, as float64.

    Args:
        rows: (n, d).
        size: how many at once, at most.

    Returns:
        (b, d) each.
    """
    for first in range(0, len(rows), size):
        yield rows[first : first + size].astype(np.float64, copy=False)


def _as_numbers(rows: np.ndarray, name: str) -> np.ndarray:
    """Real numbers of the types that NumPy does not know itself, as bfloat16."""
    if rows.dtype.kind == "V" and rows.dtype.names is None:
        try:
            return rows.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"{name} must be real numbers; got {rows.dtype}")

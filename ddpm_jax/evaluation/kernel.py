"""The kernel distance (KID: Binkowski et al. 2018): unbiased, of a cubic polynomial."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.rows import as_pair, blocks


class KernelDistance(NamedTuple):
    """The kernel distance over random subsets (KID: Binkowski et al. 2018).

    Attributes:
        mean: of the subsets' distances.
        std: their standard deviation.
    """

    mean: float
    std: float


def kernel_distance(samples: ArrayLike, reference: ArrayLike) -> float:
    """The squared maximum mean discrepancy for k(x, y) = (x.y / d + 1)^3.

    KID: Binkowski et al. 2018. Unbiased: its expectation is 0 for two draws of one
    distribution, so it can be negative.

    Args:
        samples: (n, d), n at least 2.
        reference: (m, d), m at least 2.

    Returns:
        The distance; papers often print it times 1000.

    Raises:
        ValueError: if there are fewer, ranks or dimensions differ, or for NaN.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.evaluation.kernel import kernel_distance
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.normal(size=(2, 500, 8))
        >>> abs(kernel_distance(a, b)) < 0.05, kernel_distance(a, b + 1) > 1
        (True, True)
    """
    return _unbiased(*as_pair(samples, reference))


def kernel_distance_subsets(
    samples: ArrayLike,
    reference: ArrayLike,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """The mean and spread over random subsets, drawn as torch-fidelity draws them.

    KID: Binkowski et al. 2018.

    Args:
        samples: (n, d).
        reference: (m, d).
        subsets: how many.
        size: of each subset of either set, drawn without replacement.
        seed: of the subsets.

    Returns:
        The mean distance and its spread.

    Raises:
        ValueError: as `kernel_distance`, and if `size` is above a set's.
    """
    a, b = as_pair(samples, reference)
    most = min(len(a), len(b))
    if not 2 <= size <= most:
        raise ValueError(
            f"a subset for KID must have 2..{most} images, no more than either set; "
            f"got {size}"
        )
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1; got {subsets}")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        of_a = a[rng.choice(len(a), size, replace=False)]
        of_b = b[rng.choice(len(b), size, replace=False)]
        values.append(_unbiased(of_a, of_b))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _unbiased(a: np.ndarray, b: np.ndarray) -> float:
    n, m = len(a), len(b)
    within_a = _total(a, a) - _own(a)
    within_b = _total(b, b) - _own(b)
    return float(
        within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * _total(a, b) / (n * m)
    )


def _total(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of the kernel over all pairs."""
    return sum(
        float(((x @ y.T / a.shape[1] + 1) ** 3).sum())
        for x in blocks(a)
        for y in blocks(b)
    )


def _own(a: np.ndarray) -> float:
    """The sum of the kernel over pairs of one and the same."""
    return sum(float((((x * x).sum(1) / a.shape[1] + 1) ** 3).sum()) for x in blocks(a))

"""The Inception score (Salimans et al. 2016): exp of the mean KL(p(y|x) || p(y))."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax.evaluation.rows import as_rows


class InceptionScore(NamedTuple):
    """The score over splits of the samples (Salimans et al. 2016).

    Attributes:
        mean: of the splits' scores.
        std: their standard deviation.
    """

    mean: float
    std: float


def inception_score(
    logits: ArrayLike, *, splits: int = 10, seed: int | None = None
) -> InceptionScore:
    """exp of the mean KL(p(y|x) || p(y)) (Salimans et al. 2016), over parts.

    The parts are those that torch-fidelity divides the samples into.

    Args:
        logits: (n, classes), n >= 2 and n >= splits.
        splits: parts of equal size, to 1.
        seed: of a shuffle before, without which samples that come class by class score
            too little; torch-fidelity's is 2020. None = in order.

    Returns:
        The mean and the spread of the scores, each in 1..classes.

    Raises:
        ValueError: if there are fewer samples, another rank, or NaN.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.evaluation.inception_score import inception_score
        >>> sure = 50 * np.eye(10)[np.arange(1000) % 10]  # ten classes alike
        >>> round(inception_score(sure, splits=1).mean, 3)
        10.0
    """
    rows = as_rows(logits, "logits")
    count = len(rows)
    if not 1 <= splits <= count:
        raise ValueError(f"splits must be in 1..{count}, the samples; got {splits}")
    if seed is not None:
        rows = rows[np.random.RandomState(seed).permutation(count)]
    edges = [i * count // splits for i in range(splits + 1)]
    scores = [_score(rows[edges[i] : edges[i + 1]]) for i in range(splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def chunked(logits: ArrayLike, size: int = 5000) -> float:
    """The mean Inception score over chunks in order, the last of which may be smaller.

    It is what guided-diffusion's evaluator prints, from logits without their bias.

    Args:
        logits: (n, classes), n >= 2.
        size: of a chunk.

    Returns:
        The score.

    Raises:
        ValueError: as `inception_score`.
    """
    rows = as_rows(logits, "logits")
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    scores = [_score(rows[i : i + size]) for i in range(0, len(rows), size)]
    return float(np.mean(scores))


def _score(logits: np.ndarray) -> float:
    """Of one part."""
    logits = logits.astype(np.float64)
    log_p = logits - _log_sum(logits, axis=1)
    log_q = _log_sum(log_p, axis=0) - np.log(len(log_p))
    # Where a class is impossible to float64, p is 0 and both logarithms are finite.
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(1)
    return float(np.exp(divergence.mean()))


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    """log sum exp, with the axis kept."""
    most = x.max(axis, keepdims=True)
    return most + np.log(np.exp(x - most).sum(axis, keepdims=True))

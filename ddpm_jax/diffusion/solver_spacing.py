"""Chains whose steps suit a solver: even in log-SNR, Karras et al.'s, Heun's; between.

Positions are steps of the training chain as real numbers: between two entries of its
tables log alpha is interpolated linearly, as the code of DPM-Solver does, and the
network is told the fractional step. All of it NumPy float64.

Steps with lambda = log(alpha / sigma) below `lambda_min` are left out: a cosine chain
goes down to -10, where only noise is to be seen, and would spend a third to more than
half of its calls there. A sampler starts at the cut from N(0, I) as it would at T - 1;
at -5.1, where the default chain of linear betas ends by itself, alpha is 0.006.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from .betas import checked_betas
from .schedules import Schedule, make_schedule

LAMBDA_MIN = -5.1
"""Where cosine chains are cut, in log(alpha / sigma).

So does DPM-Solver's code (its `numerical_clip_alpha`; Lu et al. 2022a), and diffusers
with `lambda_min_clipped`.
"""

HEUN_LAMBDA_MIN = -math.log(80)
"""-log sigma_max of Karras et al. 2022, table 1."""


def log_snr_positions(
    betas: np.ndarray, count: int, *, lambda_min: float = LAMBDA_MIN
) -> np.ndarray:
    """`count` positions even in lambda = log(alpha / sigma), both ends included.

    Lu et al. 2022a: from 0 to T - 1 or the cut; the last alone if count is
    1.

    Args:
        betas: shape (T,), each in (0, 1).
        count: how many.
        lambda_min: where the chain is cut; -inf is no cut.

    Returns:
        Positions in 0..T-1, float64, ascending, shape (count,).

    Raises:
        ValueError: if count < 1, lambda_min is not below the lambda of step 0, or the
            chain has zero terminal SNR.

    Examples:
        >>> from ddpm_jax.diffusion import schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> print(solver_spacing.log_snr_positions(betas, 5).round(1))
        [  0.   30.1 302.3 721.6 999. ]
    """
    log_alpha, low, high = _range(betas, count, lambda_min)
    return _positions(log_alpha, np.linspace(low, high, count)[::-1])


def karras_positions(
    betas: np.ndarray,
    count: int,
    *,
    rho: float = 7.0,
    sigma_min: float = 0.0,
    sigma_max: float = np.inf,
    lambda_min: float = LAMBDA_MIN,
) -> np.ndarray:
    """`count` positions even in sigma^(1/rho), sigma = sqrt(1 - alpha_bar) / alpha.

    Karras et al. 2022, eq. 5. Sigmas beyond those of the chain, or its cut at
    exp(-lambda_min), are set to its ends: with the paper's own 0.002 and 80, a chain of
    linear betas starts at 0.01 and ends at 80, below its last step (157).

    Args:
        betas: shape (T,), each in (0, 1).
        count: how many.
        rho: the larger, the more of them lie at small sigmas; the paper's is 7.
        sigma_min: the smallest sigma; 0 is the chain's.
        sigma_max: the largest; inf is the chain's.
        lambda_min: where the chain is cut, in log(alpha / sigma); -inf is no cut.

    Returns:
        Positions in 0..T-1, float64, ascending, shape (count,).

    Raises:
        ValueError: as `log_snr_positions`, and if rho or the range of sigma is not
            positive.

    Examples:
        >>> from ddpm_jax.diffusion import schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> print(solver_spacing.karras_positions(betas, 5).round(1))
        [  0.  141.8 593.  843.4 999. ]
    """
    log_alpha, lowest, highest = _range(betas, count, lambda_min)
    low, high = max(sigma_min, np.exp(-highest)), min(sigma_max, np.exp(-lowest))
    if rho <= 0 or low > high:
        raise ValueError(
            "rho and the range of sigma must be positive; "
            f"got rho {rho}, sigma {low:.6g}..{high:.6g}"
        )
    sigma = np.linspace(high ** (1 / rho), low ** (1 / rho), count)[::-1] ** rho
    return _positions(log_alpha, -np.log(sigma))


def heun_positions(
    betas: np.ndarray, count: int, *, lambda_min: float = HEUN_LAMBDA_MIN
) -> np.ndarray:
    """`count` positions for Heun's method with few steps.

    Even in (sigma / (sigma + 6))^(3/5) from sigma at the cut to 0, clean data, where
    the last step ends; none lies below position 0. Karras et al.'s own spacing is made
    for 18 steps and more: with 8 its steps, to a fraction of sigma each, are longer
    than Heun's trapezium bears, and worse than DDIM's. The form and its constants are
    this package's, found by search over normal data of standard deviation 0.25 to 1.5
    on linear and cosine chains: on all of them, from 15 network calls on, the error is
    below that of DDIM with as many (`benchmarks/solvers.py`).

    Args:
        betas: shape (T,), each in (0, 1).
        count: how many.
        lambda_min: where the chain is cut, in log(alpha / sigma); -inf is no cut.

    Returns:
        Positions in 0..T-1, float64, ascending, shape (count,).

    Raises:
        ValueError: as `log_snr_positions`.
    """
    log_alpha, lowest, highest = _range(betas, count, lambda_min)
    low, high = np.exp(-highest), np.exp(-lowest)
    last = (high / (high + 6)) ** 0.6
    first = max(last / count, (low / (low + 6)) ** 0.6)
    root = np.linspace(first, last, count) ** (1 / 0.6)
    return _positions(log_alpha, -np.log(6 * root / (1 - root)))


def log_snr_timesteps(betas: np.ndarray, count: int) -> np.ndarray:
    """The distinct steps of the chain nearest to `log_snr_positions` (Lu et al. 2022a).

    Args:
        betas: shape (T,), each in (0, 1).
        count: how many, in 1..T.

    Returns:
        Steps for `make_schedule(betas, timesteps=...)`, int64, ascending, shape
        (count,).

    Raises:
        ValueError: as `log_snr_positions`, and if count > T.
    """
    return _distinct(log_snr_positions(betas, count), len(betas))


def karras_timesteps(betas: np.ndarray, count: int, *, rho: float = 7.0) -> np.ndarray:
    """The distinct steps nearest to `karras_positions` (Karras et al. 2022, eq. 5).

    Args:
        betas: shape (T,), each in (0, 1).
        count: how many, in 1..T.
        rho: as for `karras_positions`.

    Returns:
        Steps for `make_schedule(betas, timesteps=...)`, int64, ascending, shape
        (count,).

    Raises:
        ValueError: as `karras_positions`, and if count > T.
    """
    return _distinct(karras_positions(betas, count, rho=rho), len(betas))


def interpolated_schedule(betas: np.ndarray, positions: np.ndarray) -> Schedule:
    """The chain of `betas` respaced to real positions; its timesteps are floats.

    log alpha is interpolated linearly between two steps, as the code of DPM-Solver (Lu
    et al. 2022a) does.

    Args:
        betas: shape (T,), each in (0, 1).
        positions: strictly ascending numbers in 0..T-1, shape (S,).

    Returns:
        The schedule, of tables of shape (S,).

    Raises:
        ValueError: if they are not, or the chain has zero terminal SNR.

    Examples:
        >>> from ddpm_jax.diffusion import schedules, solver_spacing
        >>> betas = schedules.linear_betas(1000)
        >>> positions = solver_spacing.log_snr_positions(betas, 10)
        >>> schedule = solver_spacing.interpolated_schedule(betas, positions)
        >>> schedule.num_steps, schedule.timesteps.dtype
        (10, dtype('float32'))
    """
    positions, log_alpha = np.asarray(positions, np.float64), _log_alpha(betas)
    last = len(log_alpha) - 1
    ascending = positions.ndim == 1 and np.all(np.diff(positions) > 0)
    if not (
        ascending and positions.size and 0 <= positions[0] <= positions[-1] <= last
    ):
        raise ValueError(
            f"positions must be a vector ascending strictly within 0..{last}; "
            f"got {positions}"
        )
    log_alpha = np.interp(positions, np.arange(last + 1), log_alpha)
    schedule = make_schedule(-np.expm1(2 * np.diff(log_alpha, prepend=0.0)))
    timesteps = jnp.asarray(positions, schedule.betas.dtype)
    return dataclasses.replace(schedule, timesteps=timesteps)


def _log_alpha(betas: np.ndarray) -> np.ndarray:
    betas = checked_betas(betas)
    if betas[-1] == 1:
        raise ValueError(
            "steps cannot be spaced in log-SNR where it is infinite: the chain has "
            "zero terminal SNR (its last beta is 1)"
        )
    return 0.5 * np.cumsum(np.log1p(-betas))


def _range(
    betas: np.ndarray, count: int, lambda_min: float
) -> tuple[np.ndarray, float, float]:
    """The chain's log alpha, and its lambda at the cut, or the end, and at step 0."""
    if count < 1:
        raise ValueError(f"the number of steps must be at least 1; got {count}")
    log_alpha = _log_alpha(betas)
    low, high = (x - 0.5 * np.log(-np.expm1(2 * x)) for x in log_alpha[[-1, 0]])
    if not lambda_min < high:
        raise ValueError(
            f"lambda_min must lie below the lambda of step 0, {high:.6g}; got "
            f"{lambda_min}"
        )
    return log_alpha, max(float(low), lambda_min), high


def _positions(log_alpha: np.ndarray, lambdas: np.ndarray) -> np.ndarray:
    """Where the interpolated log alpha has these log-SNRs."""
    wanted = -0.5 * np.logaddexp(0, -2 * lambdas)
    steps = np.arange(len(log_alpha), dtype=np.float64)
    positions: np.ndarray = np.interp(-wanted, -log_alpha, steps)
    return positions


def _distinct(positions: np.ndarray, num_steps: int) -> np.ndarray:
    count = len(positions)
    if count > num_steps:
        raise ValueError(
            f"the number of sampling steps must lie in 1..{num_steps}; got {count}"
        )
    # Steps that round to the same integer move up, and none beyond the end.
    spare = np.round(positions).astype(np.int64) - np.arange(count)
    spare = np.minimum(np.maximum.accumulate(spare), num_steps - count)
    return spare + np.arange(count)

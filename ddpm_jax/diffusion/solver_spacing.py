"""Chains whose steps suit a solver: even in log-SNR, or Karras et al.'s; also between.

Positions are steps of the training chain as real numbers: between two entries of its
tables log alpha is interpolated linearly, as the code of DPM-Solver does, and the
network is told the fractional step. All of it NumPy float64.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import Schedule, checked_betas, make_schedule


def log_snr_positions(betas: np.ndarray, count: int) -> np.ndarray:
    """`count` positions even in lambda = log(alpha / sigma), both ends included.

    Ascending, float64, from 0 to T - 1 (Lu et al. 2022a); T - 1 alone if count is 1.

    Raises:
        ValueError: if count < 1 or the chain has zero terminal SNR.
    """
    log_alpha = _log_alpha(betas, count)
    low, high = _lambda(log_alpha[-1]), _lambda(log_alpha[0])
    return _positions(log_alpha, np.linspace(low, high, count)[::-1])


def karras_positions(
    betas: np.ndarray,
    count: int,
    *,
    rho: float = 7.0,
    sigma_min: float = 0.0,
    sigma_max: float = np.inf,
) -> np.ndarray:
    """`count` positions even in sigma^(1/rho), sigma = sqrt(1 - alpha_bar) / alpha.

    Karras et al. 2022, eq. 5, ascending, float64. Sigmas beyond those of the chain are
    set to its ends: with the paper's own 0.002 and 80, a chain of linear betas starts
    at 0.01 and ends at 80, below its last step (157).

    Raises:
        ValueError: if count < 1, rho or the range of sigma is not positive, or the
            chain has zero terminal SNR.
    """
    log_alpha = _log_alpha(betas, count)
    low = max(sigma_min, np.exp(-_lambda(log_alpha[0])))
    high = min(sigma_max, np.exp(-_lambda(log_alpha[-1])))
    if rho <= 0 or low > high:
        raise ValueError(
            "rho and the range of sigma must be positive; "
            f"got rho {rho}, sigma {low:.6g}..{high:.6g}"
        )
    sigma = np.linspace(high ** (1 / rho), low ** (1 / rho), count)[::-1] ** rho
    return _positions(log_alpha, -np.log(sigma))


def log_snr_timesteps(betas: np.ndarray, count: int) -> np.ndarray:
    """The table's steps nearest to `log_snr_positions`: distinct, int64, exactly count.

    For `make_schedule(betas, timesteps=...)`. Raises ValueError as that function, and
    if count > T.
    """
    return _distinct(log_snr_positions(betas, count), len(betas))


def karras_timesteps(betas: np.ndarray, count: int, *, rho: float = 7.0) -> np.ndarray:
    """The table's steps nearest to `karras_positions`: distinct, int64, exactly count.

    For `make_schedule(betas, timesteps=...)`. Raises ValueError as that function, and
    if count > T.
    """
    return _distinct(karras_positions(betas, count, rho=rho), len(betas))


def interpolated_schedule(betas: np.ndarray, positions: np.ndarray) -> Schedule:
    """The chain of `betas` respaced to real positions; its timesteps are floats.

    Args:
        positions: strictly ascending numbers in 0..T-1.

    Raises:
        ValueError: if they are not, or the chain has zero terminal SNR.
    """
    positions = np.asarray(positions, np.float64)
    log_alpha = _log_alpha(betas, 1)
    last = len(log_alpha) - 1
    inside = positions.ndim == 1 and positions.size > 0
    inside = inside and positions[0] >= 0 and positions[-1] <= last
    if not inside or np.any(np.diff(positions) <= 0):
        raise ValueError(
            f"positions must be a vector ascending strictly within 0..{last}; "
            f"got {positions}"
        )
    log_alpha = np.interp(positions, np.arange(last + 1), log_alpha)
    ratios = np.diff(log_alpha, prepend=0.0)
    schedule = make_schedule(-np.expm1(2 * ratios))
    return dataclasses.replace(
        schedule, timesteps=jnp.asarray(positions, schedule.betas.dtype)
    )


def _log_alpha(betas: np.ndarray, count: int) -> np.ndarray:
    betas = checked_betas(betas)
    if count < 1:
        raise ValueError(f"the number of steps must be at least 1; got {count}")
    if np.any(betas >= 1):
        raise ValueError(
            "steps cannot be spaced in log-SNR where it is infinite: the chain has "
            "zero terminal SNR (its last beta is 1)"
        )
    return 0.5 * np.cumsum(np.log1p(-betas))


def _lambda(log_alpha: np.ndarray) -> np.ndarray:
    return log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))


def _positions(log_alpha: np.ndarray, lambdas: np.ndarray) -> np.ndarray:
    """Where the interpolated log alpha has these log-SNRs."""
    wanted = -0.5 * np.logaddexp(0, -2 * lambdas)
    steps = np.arange(len(log_alpha), dtype=np.float64)
    return np.interp(-wanted, -log_alpha, steps)


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

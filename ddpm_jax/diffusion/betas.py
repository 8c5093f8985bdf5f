"""Betas of the forward process by name: NumPy float64, shape (T,)."""

import warnings

import numpy as np

ENDS = {"start": 1e-4, "end": 0.02}
"""The ends of linear betas for 1000 steps: what an end is that is None.

Ho et al. 2020, section 4.
"""


def linear_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas that grow linearly between the ends (Ho et al. 2020, section 4).

    The ends are not rescaled with the number of steps. Improved DDPM rescales them by
    1000 / T: its 4000 steps are `linear_betas(4000, start=2.5e-5, end=0.005)`. A chain
    too short for the default ends, which leaves more than a tenth of x_0 in x_T, is a
    warning that names the rescaled ones; so it is with all betas that take them.

    Args:
        num_steps: T.
        start: the first beta, in (0, 1); None is the paper's, 1e-4.
        end: the last beta, in (0, 1); None is the paper's, 0.02.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import linear_betas
        >>> betas = linear_betas(1000)
        >>> betas.shape, float(betas[0]), float(betas[-1])
        ((1000,), 0.0001, 0.02)
    """
    low, high = _ends(num_steps, start, end)
    return _warned(np.linspace(low, high, num_steps), start=start, end=end)


def cosine_betas(
    num_steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
    """Betas whose alpha_bar is a squared cosine (Nichol & Dhariwal 2021, eq. 17).

        alpha_bar(u) = cos^2((u + offset) / (1 + offset) pi / 2),  u in [0, 1]

    Only the last beta reaches `max_beta`, so the last alpha_bar is small, not zero.

    Args:
        num_steps: T.
        offset: the paper's s, which keeps the first betas from being too small.
        max_beta: the largest beta, in (0, 1).

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import cosine_betas
        >>> print(cosine_betas(1000)[[0, 500, 999]].round(6))
        [4.100e-05 3.156e-03 9.990e-01]
    """
    u = np.arange(_checked(num_steps) + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return betas


def quadratic_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas whose square roots grow linearly ("quad" in the code of Ho et al. 2020).

    diffusers calls them "scaled_linear".

    Args:
        num_steps: T.
        start: the first beta, in (0, 1); None is 1e-4.
        end: the last beta, in (0, 1); None is 0.02.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import quadratic_betas
        >>> print(quadratic_betas(1000, start=0.01, end=0.09)[[0, 999]])
        [0.01 0.09]
    """
    low, high = _ends(num_steps, start, end)
    return _warned(
        np.linspace(low**0.5, high**0.5, num_steps) ** 2, start=start, end=end
    )


def constant_betas(num_steps: int = 1000, *, value: float | None = None) -> np.ndarray:
    """Betas that are all one value ("const" in the code of Ho et al. 2020).

    Args:
        num_steps: T.
        value: the beta, in (0, 1); None is 0.02.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import constant_betas
        >>> print(constant_betas(4, value=0.5))
        [0.5 0.5 0.5 0.5]
    """
    return _warned(np.full(num_steps, _ends(num_steps, None, value)[1]), value=value)


def warmup_betas(
    num_steps: int = 1000,
    *,
    start: float | None = None,
    end: float | None = None,
    fraction: float = 0.1,
) -> np.ndarray:
    """Betas that grow linearly over the first `fraction` of the steps, then stay.

    "warmup10" and "warmup50" in the code of Ho et al. 2020 are fraction 0.1 and 0.5.

    Args:
        num_steps: T.
        start: the first beta, in (0, 1); None is 1e-4.
        end: the beta of the rest, in (0, 1); None is 0.02.
        fraction: the part of the steps over which they grow, in (0, 1].

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if fraction lies outside (0, 1], or num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import warmup_betas
        >>> print(warmup_betas(6, start=0.1, end=0.7, fraction=0.5))
        [0.1 0.4 0.7 0.7 0.7 0.7]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1]; got {fraction}")
    low, high = _ends(num_steps, start, end)
    betas = np.full(num_steps, high, np.float64)
    count = int(num_steps * fraction)
    betas[:count] = np.linspace(low, high, count)
    return _warned(betas, start=start, end=end)


def jsd_betas(num_steps: int = 1000) -> np.ndarray:
    """beta_t = 1 / (T - t), t = 0..T-1 (Sohl-Dickstein et al. 2015, section 2.4.1).

    The last beta is 1: x_T holds nothing of x_0, so the network cannot predict eps.
    Ho's code has them as "jsd".

    Args:
        num_steps: T.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import jsd_betas
        >>> print(jsd_betas(4).round(3))
        [0.25  0.333 0.5   1.   ]
    """
    return 1 / np.linspace(num_steps, 1, _checked(num_steps))


def sigmoid_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas on a sigmoid over [-6, 6] between the ends (the code of Song et al. 2021).

    Args:
        num_steps: T.
        start: what the betas come from, in (0, 1); None is 1e-4.
        end: what they go to, in (0, 1); None is 0.02.

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if num_steps is below 1.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import sigmoid_betas
        >>> print(sigmoid_betas(5, start=0.1, end=0.5).round(3))
        [0.101 0.119 0.3   0.481 0.499]
    """
    low, high = _ends(num_steps, start, end)
    growth = 1 + np.exp(-np.linspace(-6, 6, num_steps))
    return _warned(low + (high - low) / growth, start=start, end=end)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Betas shifted and scaled so that alpha_bar_T is exactly 0, alpha_bar_1 unchanged.

    Lin et al. 2023, algorithm 1. The last beta becomes 1. Such a chain needs a network
    that predicts v or x_0: eps says nothing about x_0 where there is no signal.

    Args:
        betas: shape (T,), T at least 2, each in (0, 1).

    Returns:
        The betas, float64, shape (T,).

    Raises:
        ValueError: if they are not betas (`checked_betas`), or only one.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.diffusion.schedules import linear_betas, zero_terminal_snr
        >>> betas = zero_terminal_snr(linear_betas(1000))
        >>> float(betas[-1]), float(np.prod(1 - betas))
        (1.0, 0.0)
    """
    if np.size(betas) < 2:
        raise ValueError("zero terminal SNR needs a chain of at least 2 steps; got 1")
    signal = np.sqrt(np.cumprod(1 - checked_betas(betas)))
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return betas_of(signal**2)


def rescaled_ends(num_steps: int) -> dict[str, float]:
    """The default ends for a chain of so many steps: `ENDS` times 1000 / T.

    Improved DDPM's code rescales them so (Nichol & Dhariwal 2021).

    Args:
        num_steps: T.

    Returns:
        {"start": the first beta, "end": the last}.
    """
    return {name: end * 1000 / num_steps for name, end in ENDS.items()}


def betas_of(alpha_bar: np.ndarray) -> np.ndarray:
    """The betas of a chain from its alpha_bar, the cumulative product of 1 - beta.

    Solves eq. 4 of Ho et al. 2020 for beta; Nichol & Dhariwal 2021, section 4, use it
    to respace a chain.

    Args:
        alpha_bar: float64, shape (T,), decreasing, in [0, 1).

    Returns:
        The betas, float64, shape (T,).
    """
    betas: np.ndarray = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return betas


def checked_betas(betas: np.ndarray) -> np.ndarray:
    """The betas as float64.

    Args:
        betas: shape (T,).

    Returns:
        The same, float64, shape (T,).

    Raises:
        ValueError: unless they are a vector in (0, 1), of which the last may be 1.
    """
    if np.ndim(betas) != 1 or np.size(betas) == 0 or isinstance(betas, str):
        raise ValueError(
            f"betas must be a non-empty vector, e.g. linear_betas(1000); got {betas!r}"
        )
    betas = np.asarray(betas, np.float64)
    if not (np.all((betas > 0) & (betas <= 1)) and np.all(betas[:-1] < 1)):
        raise ValueError(
            "betas must lie in (0, 1), the last one in (0, 1]; "
            f"got values in [{betas.min():.6g}, {betas.max():.6g}]"
        )
    return betas


def _ends(
    num_steps: int, start: float | None, end: float | None
) -> tuple[float, float]:
    _checked(num_steps)
    low = ENDS["start"] if start is None else start
    return low, ENDS["end"] if end is None else end


def _warned(betas: np.ndarray, **given: float | None) -> np.ndarray:
    """The betas; a warning where no end is given and the default ones do not reach."""
    left = np.sqrt(np.prod(1 - betas))
    if left <= 0.1 or any(value is not None for value in given.values()):
        return betas
    advice = "cosine_betas leaves nothing of it at any number of steps"
    ends = rescaled_ends(len(betas))
    if ends["end"] < 1:
        named = (f"{name}={ends.get(name, ends['end']):.4g}" for name in given)
        advice = f"the default ends, times 1000 / T, are {', '.join(named)}; {advice}"
    warnings.warn(
        f"x_T still holds {left:.0%} of x_0 after {len(betas)} steps with the default "
        f"ends, but sampling starts from noise alone: {advice}",
        stacklevel=3,
    )
    return betas


def _checked(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1; got {num_steps}")
    return num_steps

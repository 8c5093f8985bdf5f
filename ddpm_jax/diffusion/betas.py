"""Betas of the forward process by name: NumPy float64, shape (T,)."""

import warnings

import numpy as np

# Of Ho et al. 2020, section 4, for 1000 steps: what an end is that is None.
ENDS = {"start": 1e-4, "end": 0.02}


def linear_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas that grow linearly between the ends, by default from 1e-4 to 0.02.

    The ends are not rescaled with the number of steps. Improved DDPM rescales them by
    1000 / T: its 4000 steps are `linear_betas(4000, start=2.5e-5, end=0.005)`. A chain
    too short for the default ends, which leaves more than a tenth of x_0 in x_T, is a
    warning that names the rescaled ones; so it is with all betas that take them.
    """
    low, high = _ends(num_steps, start, end)
    return _warned(np.linspace(low, high, num_steps), start=start, end=end)


def cosine_betas(
    num_steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999
) -> np.ndarray:
    """Betas whose alpha_bar is a squared cosine (Nichol & Dhariwal 2021, eq. 17).

        alpha_bar(u) = cos^2((u + offset) / (1 + offset) pi / 2),  u in [0, 1]

    Only the last beta reaches `max_beta`, so the last alpha_bar is small, not zero.
    """
    u = np.arange(_checked(num_steps) + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def quadratic_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas whose square roots grow linearly ("quad"; "scaled_linear" in diffusers)."""
    low, high = _ends(num_steps, start, end)
    return _warned(
        np.linspace(low**0.5, high**0.5, num_steps) ** 2, start=start, end=end
    )


def constant_betas(num_steps: int = 1000, *, value: float | None = None) -> np.ndarray:
    """Betas that are all `value`, by default 0.02 ("const" in Ho's code)."""
    return _warned(np.full(num_steps, _ends(num_steps, None, value)[1]), value=value)


def warmup_betas(
    num_steps: int = 1000,
    *,
    start: float | None = None,
    end: float | None = None,
    fraction: float = 0.1,
) -> np.ndarray:
    """Betas that grow linearly over the first `fraction` of the steps, then stay.

    "warmup10" and "warmup50" in Ho's code are fraction 0.1 and 0.5.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1]; got {fraction}")
    low, high = _ends(num_steps, start, end)
    betas = np.full(num_steps, high, np.float64)
    count = int(num_steps * fraction)
    betas[:count] = np.linspace(low, high, count)
    return _warned(betas, start=start, end=end)


def jsd_betas(num_steps: int = 1000) -> np.ndarray:
    """beta_t = 1 / (T - t), t = 0..T-1 (Sohl-Dickstein et al. 2015, "jsd").

    The last beta is 1: x_T holds nothing of x_0, so the network cannot predict eps.
    """
    return 1 / np.linspace(num_steps, 1, _checked(num_steps))


def sigmoid_betas(
    num_steps: int = 1000, *, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Betas on a sigmoid over [-6, 6] between `start` and `end` (Song et al. 2021)."""
    low, high = _ends(num_steps, start, end)
    growth = 1 + np.exp(-np.linspace(-6, 6, num_steps))
    return _warned(low + (high - low) / growth, start=start, end=end)


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Betas shifted and scaled so that alpha_bar_T is exactly 0, alpha_bar_1 unchanged.

    Lin et al. 2023, algorithm 1. The last beta becomes 1. Such a chain needs a network
    that predicts v or x_0: eps says nothing about x_0 where there is no signal.

    Raises:
        ValueError: if they are not betas (`checked_betas`), or only one.
    """
    if np.size(betas) < 2:
        raise ValueError("zero terminal SNR needs a chain of at least 2 steps; got 1")
    signal = np.sqrt(np.cumprod(1 - checked_betas(betas)))
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return betas_of(signal**2)


def rescaled_ends(num_steps: int) -> dict[str, float]:
    """The default ends for a chain of so many steps: `ENDS` times 1000 / T."""
    return {name: end * 1000 / num_steps for name, end in ENDS.items()}


def betas_of(alpha_bar: np.ndarray) -> np.ndarray:
    """The betas whose cumulative product of 1 - beta is alpha_bar."""
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


def checked_betas(betas: np.ndarray) -> np.ndarray:
    """The betas as float64.

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

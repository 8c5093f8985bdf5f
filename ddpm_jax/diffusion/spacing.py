"""Which steps of a long chain a short one visits."""

import numpy as np


def spaced_timesteps(num_steps: int, count: int, *, spacing: str) -> np.ndarray:
    """`count` steps out of 0..num_steps-1, for `make_schedule(betas, timesteps=...)`.

    Args:
        num_steps: T.
        count: how many steps, in 1..T.
        spacing: how the steps lie:
            "uniform": evenly with both ends, rounded (Improved DDPM's "N");
            "ddim": an integer stride from 0 (Improved DDPM's "ddimN"); the last step
                lies short of num_steps - 1;
            "quadratic": dense at the small steps (DDIM, appendix D.2), up to 0.8
                num_steps; steps that round to the same integer are kept once, so there
                can be fewer than `count`;
            "leading", "trailing", "linspace": as diffusers' DDIM scheduler names them:
                multiples of num_steps // count from 0; steps back from the last one;
                evenly with both ends. (Lin et al. 2023, table 2.)

    Returns:
        The steps, int64, strictly ascending, shape (count,).

    Raises:
        ValueError: if count is not in 1..num_steps, the spacing has no such count, or
            its name is unknown.

    Examples:
        >>> from ddpm_jax.diffusion.schedules import spaced_timesteps
        >>> spaced_timesteps(1000, 5, spacing="uniform")
        array([  0, 250, 500, 749, 999])
        >>> spaced_timesteps(1000, 5, spacing="trailing")
        array([199, 399, 599, 799, 999])
    """
    if not 1 <= count <= num_steps:
        raise ValueError(
            f"the number of sampling steps must lie in 1..{num_steps}; got {count}"
        )
    if spacing not in _SPACINGS:
        raise ValueError(
            f"spacing must be one of {', '.join(_SPACINGS)}; got {spacing!r}"
        )
    return _SPACINGS[spacing](num_steps, count).astype(np.int64)


def _uniform(num_steps: int, count: int) -> np.ndarray:
    # The stride is added up rather than multiplied: the reference code's rounding
    # errors decide which way halves round.
    strides = np.full(count, (num_steps - 1) / max(count - 1, 1))
    return np.round(np.cumsum(np.append(0.0, strides[1:])))


def _integer_stride(num_steps: int, count: int) -> np.ndarray:
    for stride in range(1, num_steps + 1):
        steps = np.arange(0, num_steps, stride)
        if len(steps) == count:
            return steps
    raise ValueError(f"no integer stride gives {count} of {num_steps} steps")


def _quadratic(num_steps: int, count: int) -> np.ndarray:
    roots = np.linspace(0, np.sqrt(num_steps * 0.8), count)
    return np.unique((roots**2).astype(np.int64))


def _leading(num_steps: int, count: int) -> np.ndarray:
    return np.arange(count) * (num_steps // count)


def _trailing(num_steps: int, count: int) -> np.ndarray:
    return np.round(np.arange(num_steps, 0, -num_steps / count))[:count][::-1] - 1


def _linspace(num_steps: int, count: int) -> np.ndarray:
    return np.round(np.linspace(0, num_steps - 1, count))


_SPACINGS = {
    "uniform": _uniform,
    "ddim": _integer_stride,
    "quadratic": _quadratic,
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
}

"""Ancestral sampling (Ho et al. 2020, algorithm 2)."""

from jax import Array

from ..denoiser import Estimate
from ..schedules import Schedule
from ..transitions import p_gaussian, p_sample
from .base import Sampler, memoryless


def ddpm() -> Sampler:
    """Ancestral sampling: x_{t-1} ~ p(x_{t-1} | x_t), and the mean at t = 0.

    On a respaced schedule it is the sampler of Improved DDPM; with `fixed_large` there,
    the one that the DDIM paper calls sigma-hat. With a denoiser that does not clip it
    is algorithm 2 as printed; the reference loops clip.
    """
    return memoryless(ddpm_update, stochastic=True)


def ddpm_update(
    schedule: Schedule, xt: Array, i: Array, estimate: Estimate, noise: Array
) -> Array:
    """x_{t-1} from the estimate at (x_t, index i) and a standard normal noise."""
    p = p_gaussian(schedule, xt, i, estimate.x0, estimate.variance)
    return p_sample(p, i, noise)

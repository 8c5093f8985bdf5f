"""Ancestral sampling (Ho et al. 2020, algorithm 2)."""

from jax import Array

from ..denoiser import Estimate
from ..schedules import Schedule
from ..transitions import p_gaussian, p_sample
from .base import Sampler, memoryless


def ddpm() -> Sampler:
    """Ancestral sampling: x_{t-1} ~ p(x_{t-1} | x_t), and the mean at t = 0.

    Ho et al. 2020, algorithm 2: as printed with a denoiser that does not clip; the
    reference loops clip. On a respaced schedule it is the sampler of Improved DDPM;
    with `fixed_large` there, the one that the DDIM paper calls sigma-hat.

    Returns:
        The sampler; T network calls, noise at each.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):  # right for standard normal data
        ...     return schedule.sqrt_one_minus_alphas_cumprod[t][:, None] * x
        >>> x = samplers.sample(
        ...     0, network, schedule, (5000, 1), sampler=samplers.ddpm()
        ... )
        >>> print(f"{jnp.std(x):.1f}")
        1.0
    """
    return memoryless(ddpm_update, stochastic=True)


def ddpm_update(
    schedule: Schedule, xt: Array, i: Array, estimate: Estimate, noise: Array
) -> Array:
    """x_{t-1} from the estimate at (x_t, index i).

    Ho et al. 2020, algorithm 2, line 4.

    Args:
        schedule: the chain.
        xt: (batch, *data).
        i: an index in 0..T-1, () or (batch,).
        estimate: what the model says at (xt, i).
        noise: standard normal, (batch, *data).

    Returns:
        x_{i-1}, (batch, *data).

    Raises:
        ValueError: if a concrete i lies outside the chain, or i is not of integers.
    """
    p = p_gaussian(schedule, xt, i, estimate.x0, estimate.variance)
    return p_sample(p, i, noise)

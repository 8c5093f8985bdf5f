"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..closures import Closure
from ..denoiser import Denoiser, Estimate, Network, as_denoiser
from ..schedules import Schedule, at, concrete
from ..transitions import q_sample
from .base import Sampler, before, floating, memoryless


def ddim(*, eta: float | Array = 0.0) -> Sampler:
    """DDIM (Song et al. 2021): DDPM's marginals, a noise level of one's choice.

    On a respaced schedule it takes the short chain; the last step goes to
    alpha_bar = 1, the clean data. A learned variance is ignored.

    Args:
        eta: 0 is deterministic, 1 has the variance of ancestral sampling
            (`fixed_small`). A number in [0, 1], or (); may be traced.

    Returns:
        The sampler; T network calls.

    Raises:
        ValueError: if a concrete eta lies outside [0, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> betas = schedules.linear_betas(1000)
        >>> kept = schedules.spaced_timesteps(1000, 20, spacing="uniform")
        >>> short = schedules.make_schedule(betas, timesteps=kept)
        >>> whole = schedules.make_schedule(betas)
        >>> def network(x, t):  # right for data that are all 0
        ...     return x / whole.sqrt_one_minus_alphas_cumprod[t][:, None]
        >>> x = samplers.sample(0, network, short, (2, 3), sampler=samplers.ddim())
        >>> bool(jnp.abs(x).max() < 1e-4)
        True
    """
    if _checked_eta(eta) == 0:
        return memoryless(ddim_update, stochastic=False)
    update = Closure(ddim_update, eta=jnp.asarray(eta, float))
    return memoryless(update, stochastic=True)


def ddim_update(
    schedule: Schedule,
    xt: Array,
    i: Array,
    estimate: Estimate,
    noise: Array | None = None,
    *,
    eta: float | Array = 0.0,
) -> Array:
    """x at index i - 1 from the estimate at (x_t, index i) (Song et al. 2021, eq. 12).

        x_{i-1} = sqrt(alpha_bar_{i-1}) x_0 + sqrt(1 - alpha_bar_{i-1} - sigma^2) eps
                  + sigma noise,    sigma = eta sqrt(beta~_i)

    At i = 0 it is x_0.

    Args:
        schedule: the chain.
        xt: (batch, *data).
        i: an index in 0..T-1, () or (batch,).
        estimate: what the model says at (xt, i).
        noise: standard normal, (batch, *data); without it eta must be 0.
        eta: in [0, 1], a number or ().

    Returns:
        x_{i-1}, (batch, *data).

    Raises:
        ValueError: if eta > 0 comes without a noise, a concrete eta lies outside
            [0, 1], or a concrete i outside the chain.
    """
    if _checked_eta(eta) != 0 and noise is None:
        raise ValueError(f"with eta > 0 there must be a noise; got eta={eta} alone")
    signal = jnp.sqrt(at(schedule.alphas_cumprod_prev, i, xt))
    sigma_prev = before(schedule.sqrt_one_minus_alphas_cumprod, 0.0, i, xt)
    if noise is None:
        return signal * estimate.x0 + sigma_prev * estimate.eps
    # 1 - alpha_bar - sigma^2 cancels in float32. It is linear in eta^2, and at eta = 1
    # it is the share of x_t's noise in the posterior mean: both ends are tables.
    shared = at(schedule.posterior_mean_coef2, i, xt) * at(
        schedule.sqrt_one_minus_alphas_cumprod, i, xt
    )
    kept = jnp.square(eta * shared) + (1 - jnp.square(eta)) * jnp.square(sigma_prev)
    sigma = eta * jnp.sqrt(at(schedule.posterior_variance, i, xt))
    # At i = 0 nothing is kept, and there the root has no slope in eta.
    kept = jnp.where(kept > 0, jnp.sqrt(jnp.where(kept > 0, kept, 1.0)), 0.0)
    return signal * estimate.x0 + kept * estimate.eps + sigma * noise


def ddim_invert(denoise: Denoiser | Network, schedule: Schedule, x0: Array) -> Array:
    """The latent x_T from which `ddim()` leads back to x0.

    Song et al. 2021, section 4.3. The deterministic sampler walked up the chain, each
    step with the eps of the point that it leaves, the image itself counting as index 0:
    exact in the limit of many steps, for a denoiser that does not clip. T network
    calls, compiled as `sample` is.

    Args:
        denoise: as `sample` takes it.
        schedule: the chain.
        x0: clean data, (batch, *data).

    Returns:
        x_T, (batch, *data).

    Raises:
        ValueError: if the denoiser cannot work on the schedule.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):  # right for standard normal data
        ...     return schedule.sqrt_one_minus_alphas_cumprod[t][:, None] * x
        >>> x0 = jnp.array([[-1.0, 0.25, 1.0]])
        >>> latent = samplers.ddim_invert(network, schedule, x0)
        >>> print(np.asarray(latent).round(2))
        [[-1.    0.25  1.  ]]
    """
    denoise = as_denoiser(denoise, schedule)
    latent: Array = _invert(denoise, schedule, floating(schedule, x0))
    return latent


@jax.jit
def _invert(denoise: Denoiser, schedule: Schedule, x0: Array) -> Array:
    def body(x: Array, i: Array) -> tuple[Array, None]:
        # From index i - 1 to i; the clean image counts as index 0 for the network.
        estimate = denoise(schedule, x, jnp.maximum(i - 1, 0))
        x0 = jnp.where(i == 0, x, estimate.x0)
        return q_sample(schedule, x0, i, estimate.eps), None

    x: Array = jax.lax.scan(body, x0, jnp.arange(schedule.num_steps))[0]
    return x


def _checked_eta(eta: float | Array) -> np.ndarray | None:
    """Its value; None if it is traced."""
    value = concrete(eta)
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"eta must lie in [0, 1]; got {eta}")
    return value

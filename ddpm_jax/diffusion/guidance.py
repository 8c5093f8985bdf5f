"""What stands between a network and a sampler: limits on x_0, and guidance."""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.bound import Bound
from ddpm_jax.diffusion.transitions import Clip


def clip_static(bound: float = 1.0) -> Clip:
    """x_0 -> x_0 limited to [-bound, bound], as every reference sampler limits it."""
    return Bound(_clip_static, bound=float(bound))


def _clip_static(x0: jax.Array, *, bound: jax.Array) -> jax.Array:
    return jnp.clip(x0, -bound, bound)

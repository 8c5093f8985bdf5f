"""The forward chain destroying an image, under linear and under cosine betas."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import cosine_betas, linear_betas, make_schedule
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, pick, real
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_STEPS = 1000
SHOWN = 10  # pictures after the clean one


def draw(subject: Subject) -> "Figure":
    """One image after 0, 100, ..., 1000 steps of either chain, with one noise."""
    image = real(pick(subject, 1))
    noise = jax.random.normal(jax.random.fold_in(subject.key, 1), image.shape)
    counts = np.linspace(0, NUM_STEPS, SHOWN + 1).astype(int)
    chains = {"linear": linear_betas(NUM_STEPS), "cosine": cosine_betas(NUM_STEPS)}
    rows = [noised(betas, image, noise, counts) for betas in chains.values()]
    return gallery(
        rows,
        columns=[str(count) for count in counts],
        rows=list(chains),
        heading=f"steps of noise, of {NUM_STEPS}",
    )


def noised(
    betas: np.ndarray, image: jax.Array, noise: jax.Array, counts: np.ndarray
) -> np.ndarray:
    """Pictures of an image on its way to noise (Ho et al. 2020, eq. 4).

    Args:
        betas: of the chain, (T,).
        image: (h, w, c) in [-1, 1].
        noise: standard normal, (h, w, c).
        counts: after how many steps, (n,); 0 is the image.

    Returns:
        (n, h, w, c) uint8.
    """
    t = jnp.asarray(counts[1:] - 1)  # after n steps the image is at t = n - 1
    many = jnp.broadcast_to(image, (len(t), *image.shape[1:]))
    x = q_sample(make_schedule(betas), many, t, jnp.broadcast_to(noise, many.shape))
    return to_uint8(np.concatenate([image, x]))

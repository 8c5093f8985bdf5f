"""Between two real images: Ho's mixed noised images, and DDIM's mixed latents."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.editing import interpolate_latents
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, check_free, pick, real
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS = {"0": 0, "1/6": 1 / 6, "1/3": 1 / 3, "1/2": 1 / 2}
WEIGHTS |= {"2/3": 2 / 3, "5/6": 5 / 6, "1": 1}
DEPTHS = (0.15, 0.3)  # of the chain, where Ho's rows mix


def draw(subject: Subject) -> "Figure":
    """A row for each depth of mixing, and one through the latents.

    Raises:
        ValueError: if the model has never been trained without labels.
    """
    model = subject.model
    check_free(model)
    first, second = real(pick(subject, 2))
    weights = jnp.asarray(list(WEIGHTS.values()), float)
    drawn, names = [], []
    for depth in DEPTHS:
        index = round(depth * model.schedule.num_steps) - 1
        x = model.interpolate(subject.key, first, second, weights, start=depth)
        drawn.append(x)
        names.append(f"Ho et al.,\nmixed at $t$ = {index}")
    # A clip cannot be walked up again.
    denoise = model.denoiser(clip=False)
    drawn.append(interpolate_latents(denoise, model.schedule, first, second, weights))
    names.append("DDIM,\nmixed latents")
    cells = [to_uint8(np.stack([first, *x, second])) for x in drawn]
    return gallery(
        cells,
        columns=["real", *WEIGHTS, "real"],
        rows=names,
        heading="share of the right image",
        column_breaks=(1, len(WEIGHTS) + 1),
    )

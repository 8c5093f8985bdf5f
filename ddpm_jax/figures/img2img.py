"""Image to image: a real image noised so far and sampled down again (SDEdit)."""

from typing import TYPE_CHECKING

import numpy as np

from ddpm_jax import build
from ddpm_jax.diffusion.editing import image_to_image
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, free_denoiser, pick, real
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the chain
ROWS = 3


def draw(subject: Subject) -> "Figure":
    """A row is one image, from ever later steps of the chain.

    Raises:
        ValueError: if the model has never been trained without labels.
    """
    model = subject.model
    config = model.config.diffusion
    denoise = free_denoiser(model)
    schedule = model.schedule
    images = real(pick(subject, ROWS))
    keys = build.image_keys(subject.key, 0, ROWS)
    columns, names = [images], ["real"]
    for depth in DEPTHS:
        index = round(depth * schedule.num_steps)
        x = image_to_image(
            keys,
            denoise,
            schedule,
            images,
            start_index=index,
            sampler=build.make_sampler(config, "ddpm"),
        )
        columns.append(x)
        names.append(str(index))
    return gallery(
        to_uint8(np.stack(columns, axis=1)),
        columns=names,
        rows=[""] * ROWS,
        heading="step $t$ that the image is noised to",
        column_breaks=(1,),
    )

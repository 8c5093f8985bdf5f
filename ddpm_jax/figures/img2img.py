"""Image to image: a real image noised so far and sampled down again (SDEdit)."""

from typing import TYPE_CHECKING

import numpy as np

from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, check_free, pick, real
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
    check_free(model)
    images = real(pick(subject, ROWS))
    columns, names = [images], ["real"]
    for depth in DEPTHS:
        columns.append(model.image_to_image(subject.key, images, start=depth))
        names.append(str(round(depth * model.schedule.num_steps) - 1))
    return gallery(
        to_uint8(np.stack(columns, axis=1)),
        columns=names,
        rows=[""] * ROWS,
        heading="step $t$ that the image is noised to",
        column_breaks=(1,),
    )

"""Inpainting: what the model thinks fits where the pixels are unknown."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ddpm_jax.figures import style
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, check_free, pick, real
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPLETIONS = 6
STEPS = 250  # of RePaint's chain


def draw(subject: Subject) -> "Figure":
    """Rows of an image, what is kept of it, and completions by RePaint.

    Raises:
        ValueError: if the model has never been trained without labels.
    """
    model = subject.model
    check_free(model)
    height, width, _ = subject.train.image_shape
    masks = kept_parts(height, width)
    images = real(pick(subject, len(masks)))
    steps = min(STEPS, model.schedule.num_steps)
    shown = (len(masks), COMPLETIONS, *images.shape[1:])
    many = jnp.broadcast_to(images[:, None], shown).reshape(-1, *images.shape[1:])
    mask = jnp.repeat(jnp.asarray(np.stack(list(masks.values()))), COMPLETIONS, axis=0)
    x = model.inpaint(subject.key, many, mask, steps=steps)
    completed = to_uint8(np.asarray(x)).reshape(shown)
    cells = []
    for image, kept, row in zip(
        to_uint8(np.asarray(images)), masks.values(), completed, strict=True
    ):
        given = np.where(kept == 1, image, np.array(style.HOLE, np.uint8))
        cells.append([image, given, *row])
    return gallery(
        cells,
        columns=["real", "given", *(f"sample {i + 1}" for i in range(COMPLETIONS))],
        rows=list(masks),
        column_breaks=(2,),
    )


def kept_parts(height: int, width: int) -> dict[str, np.ndarray]:
    """Masks (h, w, 1), 1 where the image is given, by what is hidden."""
    y, x = np.mgrid[:height, :width]
    middle = (abs(2 * y + 1 - height) <= height // 2) & (
        abs(2 * x + 1 - width) <= width // 2
    )
    hidden = {
        "lower half": y >= height // 2,
        "right half": x >= width // 2,
        "upper half": y < height // 2,
        "centre": middle,
    }
    return {name: 1.0 - part[..., None] for name, part in hidden.items()}

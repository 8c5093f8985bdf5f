"""Classifier-free guidance: one noise under growing scales."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, class_names
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
ROWS = 4
STEPS = 50


def draw(subject: Subject) -> "Figure":
    """A row is one label and one noise, drawn by DDIM at every scale.

    Raises:
        ValueError: if the model has no labels, or never learned to do without them.
    """
    model = subject.model
    classes = model.config.data.num_classes
    if classes is None:
        raise ValueError("guidance needs a class-conditional model; this run has none")
    labels = [(subject.seed + 2 + 3 * i) % classes for i in range(ROWS)]
    columns = []
    for scale in SCALES:
        x = model.sample(
            subject.key,
            ROWS,
            sampler="ddim",
            steps=min(STEPS, model.schedule.num_steps),
            label=jnp.asarray(labels),
            guidance=scale,
            progress=False,
        )
        columns.append(to_uint8(np.asarray(x)))
    return gallery(
        np.stack(columns, axis=1),
        columns=[f"{scale:g}" for scale in SCALES],
        rows=[f"“{name}”" for name in class_names(subject, labels)],
        heading="guidance scale (0: the label is ignored, 1: the conditional model)",
    )

"""Quality against the price of a sample, for every sampler.

The measure is the L2 distance to the nearest training image, its median over samples,
divided by the same median over held-out images: at 1 samples lie as close to the
training set as real images do. Much above they are not like them; far below they are
copies or blurred.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ddpm_jax.evaluation.neighbours import nearest_distances
from ddpm_jax.figures import style
from ddpm_jax.figures.subject import Subject
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALLS = (5, 10, 20, 50, 100)  # of the network; Heun makes two a step
HELD_OUT = 1000  # at most so many real images for the yardstick
NAMES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver_pp": "DPM-Solver++ (2M)",
    "heun": "Heun",
    "unipc": "UniPC",
}


def draw(subject: Subject) -> "Figure":
    """One line a sampler; every sampler starts from the same noises and labels."""
    figure, (axes,) = style.panels(1, height=3.9)
    yardstick = held_out(subject)
    for i, (name, shown) in enumerate(NAMES.items()):
        points = curve(subject, name)
        axes.plot(
            [calls for calls, _ in points],
            [distance / yardstick for _, distance in points],
            color=style.COLOURS[i],
            marker=style.MARKERS[i],
            linestyle=style.DASHES[i],
            linewidth=style.LINE,
            markersize=6,
            label=shown,
        )
    axes.axhline(1, color=style.FAINT, linewidth=1)
    axes.annotate(
        "held-out images",
        (0.99, 1),
        (0, -3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=style.SIZE - 1,
        color=style.FAINT,
    )
    axes.set(xscale="log", xticks=CALLS, xticklabels=[str(c) for c in CALLS])
    ratios = (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3, 4, 6, 8)
    low, high = axes.get_ylim()
    axes.set(yscale="log", yticks=ratios, yticklabels=[f"{r:g}" for r in ratios])
    axes.set_ylim(low, high)
    axes.minorticks_off()
    style.label(
        axes,
        x="network calls per image (Heun makes two a step)",
        y="relative to held-out images",
        title="median distance to the nearest training image",
    )
    axes.legend(frameon=False, fontsize=style.SIZE, labelcolor=style.INK)
    return figure


def curve(subject: Subject, name: str) -> list[tuple[int, float]]:
    """(network calls, median distance) of one sampler at every number of calls."""
    points = []
    for calls in CALLS:
        steps = (calls + 1) // 2 if name == "heun" else calls
        if steps > subject.model.schedule.num_steps:
            continue
        samples = drawn(subject, name, steps)
        spent = 2 * steps - 1 if name == "heun" else steps
        points.append((spent, float(np.median(nearest(samples, subject.train.images)))))
    return points


def drawn(subject: Subject, name: str, steps: int) -> np.ndarray:
    """`subject.num` samples, uint8, with the labels in turn where there are labels."""
    model, labels = subject.model, None
    classes = model.config.data.num_classes
    if classes is not None:
        labels = jnp.arange(subject.num) % classes
    x = model.sample(subject.key, subject.num, sampler=name, steps=steps, label=labels)
    return to_uint8(np.asarray(x))


def held_out(subject: Subject) -> float:
    """The median over real images that were not trained on; where a set has no such
    split, over training images to the nearest other one.
    """
    if subject.test is subject.train:
        images = subject.train.images
        return float(np.median(nearest(images[:HELD_OUT], images, rank=1)))
    images = subject.test.images[:HELD_OUT]
    return float(np.median(nearest(images, subject.train.images)))


def nearest(images: np.ndarray, real: np.ndarray, *, rank: int = 0) -> np.ndarray:
    """L2 distance in [-1, 1] of every image to the nearest real one, (n,).

    Args:
        rank: 0 is the nearest, 1 the nearest but one.
    """
    return nearest_distances(_rows(images), _rows(real), rank)


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1

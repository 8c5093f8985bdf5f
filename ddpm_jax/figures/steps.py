"""Quality against the price of a sample, for every sampler.

The measure is the Frechet distance to the training images in the features of the set's
classifier (`evaluation.classifier`); the yardstick is that of as many held-out images.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import FeatureNetwork, collect, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.moments import covariance, moments
from ddpm_jax.figures import style
from ddpm_jax.figures.subject import Subject
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALLS = (5, 10, 20, 50, 100)  # of the network; Heun makes two a step
NAMES = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "dpm_solver_pp": "DPM-Solver++ (2M)",
    "heun": "Heun",
    "unipc": "UniPC",
}


def draw(subject: Subject) -> "Figure":
    """One line a sampler; every sampler starts from the same noises and labels.

    Raises:
        ValueError: if there is no classifier of the data set.
    """
    judge = Judge(subject)
    figure, (axes,) = style.panels(1, height=3.9)
    for i, (name, shown) in enumerate(NAMES.items()):
        points = curve(subject, judge, name)
        calls, distances = zip(*points, strict=True)
        style.curve(axes, i, calls, distances, shown)
    yardstick = judge.distance(held_out(subject))
    axes.axhline(yardstick, color=style.FAINT, linewidth=1)
    axes.annotate(
        "held-out images",
        (0.52, yardstick),
        (0, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="bottom",
        fontsize=style.SIZE - 1,
        color=style.FAINT,
    )
    axes.set(xscale="log", xticks=CALLS, xticklabels=[str(c) for c in CALLS])
    axes.set(yscale="log")
    low, high = axes.get_ylim()
    levels = [x * 10.0**power for power in range(-6, 9) for x in (1, 2, 5)]
    axes.set(yticks=levels, yticklabels=[f"{x:g}" for x in levels])
    axes.set_ylim(low, high)
    axes.minorticks_off()
    style.label(
        axes,
        x="network calls per image (Heun makes two a step)",
        y=f"{judge.name} of {subject.num} samples",
        title="distance to the training images, in a classifier's features",
    )
    axes.legend(frameon=False, fontsize=style.SIZE, labelcolor=style.INK)
    return figure


class Judge:
    """Measures images against the training images of a subject.

    Raises:
        ValueError: if there are no features to measure them in.
    """

    def __init__(self, subject: Subject):
        """Takes the features of the training images.

        Raises:
            ValueError: if there is no classifier of the data set.
        """
        try:
            self._network, facts = classifier.find(subject.model.config.data)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        self.name = f"{facts.data}-FD"
        self._real = _gaussian(self._network, subject.train.images)

    def distance(self, images: np.ndarray) -> float:
        """The Frechet distance of (n, h, w, c) uint8 images to the training images."""
        return frechet_distance(*_gaussian(self._network, images), *self._real)


def _gaussian(
    network: FeatureNetwork, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = collect(extract(network, images, taps=["features"]))["features"]
    found = moments(rows)
    return found.mean, covariance(found)


def curve(subject: Subject, judge: Judge, name: str) -> list[tuple[int, float]]:
    """(network calls, distance) of one sampler at every number of calls."""
    points = []
    for calls in CALLS:
        steps = (calls + 1) // 2 if name == "heun" else calls
        if steps > subject.model.schedule.num_steps:
            continue
        spent = 2 * steps - 1 if name == "heun" else steps
        points.append((spent, judge.distance(drawn(subject, name, steps))))
    return points


def drawn(subject: Subject, name: str, steps: int) -> np.ndarray:
    """`subject.num` samples, with the labels in turn where there are labels.

    Args:
        subject: what is drawn from.
        name: of the sampler.
        steps: of the chain.

    Returns:
        (n, h, w, c) uint8.
    """
    model, labels = subject.model, None
    classes = model.config.data.num_classes
    if classes is not None:
        labels = jnp.arange(subject.num) % classes
    x = model.sample(subject.key, subject.num, sampler=name, steps=steps, label=labels)
    return to_uint8(np.asarray(x))


def held_out(subject: Subject) -> np.ndarray:
    """As many real images as there are samples, not trained on where a set has such.

    Args:
        subject: whose data set.

    Returns:
        (n, h, w, c) uint8.
    """
    images = subject.test.images
    order = np.random.default_rng(subject.seed).permutation(len(images))
    return images[order[: subject.num]]

"""What the figures of a run are drawn from: its model and its real images."""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import build
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion.noise import threefry_key
from ddpm_jax.loading import load
from ddpm_jax.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its data, and how much of it to look at."""

    model: Model
    train: ImageArrays
    test: ImageArrays  # the same object as `train` where a set has no split
    seed: int = 0  # of every choice and all noise
    num: int = 128  # images that a measurement is taken over

    @property
    def key(self) -> jax.Array:
        """The key that a figure consumes, ()."""
        return threefry_key(jax.random.key(self.seed))


def open_subject(
    workdir: pathlib.Path,
    *,
    seed: int,
    num: int,
    weights: Literal["ema", "raw"] = "ema",
) -> Subject:
    """The newest checkpoint of a run, with the images that its config names.

    Raises:
        ValueError, OSError, ImportError: what the checkpoint or the data raise.
    """
    if num < 2:
        raise ValueError(f"--num must be at least 2; got {num}")
    model = load(workdir, weights=weights)
    data = model.config.data
    train = test = build.load_images(data, data.split)
    if data.source != "folder" and data.test_split != data.split:
        test = build.load_images(data, data.test_split)
    return Subject(model=model, train=train, test=test, seed=seed, num=num)


def pick(subject: Subject, count: int) -> ImageArrays:
    """`count` test images, of different classes as far as there are classes.

    Raises:
        ValueError: if there are fewer images.
    """
    data = subject.test
    if data.num_examples < count:
        raise ValueError(
            f"{data.name}: the figure needs {count} images; got {data.num_examples}"
        )
    order = np.random.default_rng(subject.seed).permutation(data.num_examples)
    if data.labels is not None:
        # Round robin over the classes: the first of each, then the second of each.
        ordered = data.labels[order]
        turn = np.zeros(len(order), np.int64)
        for label in np.unique(ordered):
            turn[ordered == label] = np.arange(np.sum(ordered == label))
        order = order[np.argsort(turn, kind="stable")]
    chosen = order[:count]
    labels = None if data.labels is None else data.labels[chosen]
    return dataclasses.replace(data, images=data.images[chosen], labels=labels)


def real(images: ImageArrays) -> jax.Array:
    """The images as the model sees them.

    Args:
        images: (n, h, w, c) uint8.

    Returns:
        Floats in [-1, 1], (n, h, w, c).
    """
    return to_float(jnp.asarray(images.images))


def check_free(model: Model) -> None:
    """Holds that the model draws without labels, as for images of an unknown class.

    Raises:
        ValueError: if it has labels and has never been trained without them.
    """
    config = model.config
    if config.data.num_classes is not None and not config.diffusion.label_dropout:
        raise ValueError(
            "the figure needs a model that has learned to do without a label: one "
            "trained with diffusion.label_dropout > 0; got 0"
        )


def class_names(subject: Subject, labels: list[int]) -> list[str]:
    """The names of these labels, as the data set gives them."""
    names = subject.train.label_names
    return [names[i] if i < len(names) else str(i) for i in labels]

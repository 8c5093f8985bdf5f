"""The loss of held-out images by step, always with the same noise.

The average over all steps hides what training changes: nearly all of it comes from the
few steps with little noise. And with new noise at every look the average moves more
than a model improves in thousands of updates.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ddpm_jax import build
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion.noise import draw_noise, fold_in
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.mesh import BATCH_AXES, make_mesh
from ddpm_jax.model import Model

SEED = 0  # image i at step t has the noise of fold_in(fold_in(key(SEED), i), t)


class HeldOut(NamedTuple):
    """Means over images, with their standard errors."""

    t: np.ndarray  # (levels,) steps of the chain
    loss: np.ndarray  # (levels,) at each of them
    error: np.ndarray  # (levels,)
    mean: float  # over the levels
    mean_error: float


def read_held_out(data: DataConfig, num: int) -> tuple[ImageArrays | None, str]:
    """The first `num` images of the test split; or None, and why there are none.

    Raises:
        OSError, ImportError: what the source raises.
    """
    if data.source == "folder":
        return None, "a folder has no test split"
    if data.source == "given":
        return None, "images that Python gives have no test split"
    if data.test_split == data.split:
        return None, f"data.test_split={data.test_split} is what is trained on"
    read = build.load_images if data.source == "digits" else build.open_images
    try:
        source: Any = read(data, data.test_split)
    except ValueError as error:
        return None, str(error)
    examples = [source[i] for i in range(min(num, len(source)))]
    labels = None
    if source.label_names:
        labels = np.stack([example["label"] for example in examples])
    images = np.stack([example["image"] for example in examples])
    found = ImageArrays(
        images=images, labels=labels, label_names=source.label_names, name=source.name
    )
    return found, ""


def levels_of(num_steps: int, count: int) -> np.ndarray:
    """The steps in the middle of `count` equal parts of a chain.

    The mean over them stands for the mean over all steps, which training minimises. Of
    a chain with fewer steps all are taken.

    Args:
        num_steps: T.
        count: how many.

    Returns:
        Steps in 0..T-1, ascending, (levels,).
    """
    count = min(count, num_steps)
    return (2 * np.arange(count) + 1) * num_steps // (2 * count)


def held_out_loss(
    model: Model,
    data: ImageArrays,
    t: np.ndarray,
    *,
    batch_size: int = 128,
    devices: Sequence[jax.Device] | None = None,
) -> HeldOut:
    """The loss that the model was trained on, of images and their labels, at steps t.

    Independent of the batch size, of devices and of processes, to rounding; all
    processes call it.

    Args:
        data: with labels where the model has classes, in the order of its classes.
        t: (levels,) steps of the model's chain.
        batch_size: pairs of an image and a step that a process runs at a time.
        devices: that run it; None = all of this process.
    """
    found = losses(model, data, t, batch_size=batch_size, devices=devices)
    each, count = found.mean(1), len(found)

    def error(values: np.ndarray) -> np.ndarray:
        if count < 2:
            return np.full(values.shape[1:], math.nan)
        return values.std(0, ddof=1) / math.sqrt(count)

    mean, spread = float(each.mean()), float(error(each))
    return HeldOut(np.asarray(t), found.mean(0), error(found), mean, spread)


def losses(
    model: Model,
    data: ImageArrays,
    t: np.ndarray,
    *,
    batch_size: int = 128,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """The loss of each image at each step; as `held_out_loss`.

    Args:
        model: what is measured.
        data: images (n, h, w, c), with labels where the model has classes.
        t: (levels,) steps of the model's chain.
        batch_size: as for `held_out_loss`.
        devices: as for `held_out_loss`.

    Returns:
        (n, levels) float64.
    """
    own = list(jax.local_devices() if devices is None else devices)
    mesh = make_mesh(own)
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    # The number of updates is part of a program's name, and would compile it anew.
    model = dataclasses.replace(model, step=0)
    model = jax.device_put(model, NamedSharding(mesh, PartitionSpec()))
    labels = data.labels if model.config.data.num_classes is not None else None

    process, count = jax.process_index(), jax.process_count()
    rows = data.num_examples * len(t)
    size = -(-min(batch_size, rows) // len(own)) * len(own)
    rounds = -(-rows // (size * count))
    parts = []
    for turn in range(rounds):
        # What lies beyond the last row repeats it: one program serves all batches.
        first = (turn * count + process) * size
        row = np.minimum(np.arange(first, first + size), rows - 1)
        image, level = np.divmod(row.astype(np.int32), np.int32(len(t)))
        label = None if labels is None else labels[image]
        batch = (data.images[image], label, image, t[level].astype(np.int32))
        parts.append(_losses(model, *jax.device_put(batch, divided)))
    found = np.stack(jax.device_get(parts))  # (rounds, size)
    if count > 1:  # (processes, rounds, size)
        found = np.asarray(multihost_utils.process_allgather(found)).swapaxes(0, 1)
    whole = found.reshape(-1)[:rows].astype(np.float64)
    return whole.reshape(data.num_examples, len(t))


@jax.jit
def _losses(
    model: Model,
    images: jax.Array,
    labels: jax.Array | None,
    number: jax.Array,
    t: jax.Array,
) -> jax.Array:
    x0, schedule = to_float(images), model.schedule
    keys = jax.vmap(lambda i, t: fold_in(fold_in(SEED, i), t))(number, t)
    noise = draw_noise(keys, x0)
    xt = q_sample(schedule, x0, t, noise)
    output = model.denoise(xt, schedule.timesteps[t], labels)
    loss = build.make_loss(model.config.diffusion)
    return loss(schedule, x0, xt, t, noise, output)

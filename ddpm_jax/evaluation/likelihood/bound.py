"""The variational bound of every image of a data set."""

import math

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion.likelihood import BitsPerDim, bits_per_dim
from ddpm_jax.diffusion.noise import fold_in
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.mesh import BATCH_AXES, make_mesh
from ddpm_jax.model import Model
from ddpm_jax.progress import Progress


def evaluate(
    key: jax.Array,
    model: Model,
    schedule: Schedule,
    data: ImageArrays,
    *,
    batch_size: int = 128,
) -> BitsPerDim:
    """The bound of every image (Ho et al. 2020, eq. 5). Consumes `key`.

    Batches are shared out to the processes, and each divides its own over its devices.
    Image i has noise of its own, so the result depends neither on the batch size nor on
    them. A class-conditional model is given the labels.

    Args:
        key: one key, ().
        model: what is measured.
        schedule: the chain: the model's, or one respaced.
        data: images (n, h, w, c), and labels.
        batch_size: images that a process runs at a time.

    Returns:
        In bits/dim, NumPy arrays of (n,) and (n, T).
    """
    mesh = make_mesh(jax.local_devices())
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    whole = NamedSharding(mesh, PartitionSpec())
    model, schedule = jax.device_put((model, schedule), whole)
    labels = data.labels if model.config.data.num_classes is not None else None

    process, count = jax.process_index(), jax.process_count()
    devices = jax.local_device_count()
    size = -(-min(batch_size, data.num_examples) // devices) * devices
    batches = -(-data.num_examples // size)
    rounds = -(-batches // count)
    parts = []
    progress = Progress(
        rounds, "batch", images_per_unit=size * count, shown=process == 0
    )
    for turn in range(rounds):
        # All have the same number of batches of the same size, so that one program
        # serves all; what lies beyond the last image repeats it.
        first = (turn * count + process) * size
        index = np.minimum(np.arange(first, first + size), data.num_examples - 1)
        keys = jax.vmap(fold_in, in_axes=(None, 0))(key, index)
        own = None if labels is None else labels[index]
        batch = jax.device_put((keys, data.images[index], own), divided)
        parts.append(jax.device_get(_bound(model, schedule, *batch)))
        progress.reach(turn + 1)
    progress.close()

    def together(*mine: np.ndarray) -> np.ndarray:
        own = np.stack(mine)  # (rounds, size, ...)
        if count > 1:  # (count, rounds, size, ...)
            own = multihost_utils.process_allgather(own).swapaxes(0, 1)
        return own.reshape(-1, *mine[0].shape[1:])[: data.num_examples]

    return jax.tree.map(together, *parts)


@jax.jit
def _bound(model: Model, schedule: Schedule, keys, images, labels) -> BitsPerDim:
    return bits_per_dim(keys, model.denoiser(labels), schedule, to_float(images))


def standard_error(values: np.ndarray | jax.Array) -> float:
    """The standard error of the mean of independent values; NaN for a single one.

    Args:
        values: (n,).
    """
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def summary(bound: BitsPerDim) -> dict[str, float]:
    """The mean bound over images and its parts, in bits per dimension."""
    return {
        "bits_per_dim": float(bound.total.mean()),
        "standard_error": standard_error(bound.total),
        "prior": float(bound.prior.mean()),
        "divergences": float(bound.terms[:, 1:].sum(1).mean()),
        "decoder": float(bound.terms[:, 0].mean()),
        "images": len(bound.total),
    }

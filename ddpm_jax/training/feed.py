"""The examples of every update, whichever way the data reach the devices."""

from collections.abc import Callable, Generator
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, batch_indices
from ddpm_jax.data.stream import places, stream_batches
from ddpm_jax.training.parallel import Chosen, Resident
from ddpm_jax.training.step import Batch


class Feed(NamedTuple):
    """A data set as the training loop sees it."""

    description: str
    resident: Resident | None  # what the devices hold for the whole run, if it fits
    # (seed, batch_size, first_step) -> this process's part of each global batch
    batches: Callable[[int, int, int], Generator[Chosen | Batch]]


def open_feed(config: DataConfig, load: Callable, open_source: Callable) -> Feed:
    """The feed of a config's training split.

    Args:
        load: () -> ImageArrays, where the set is held on the devices.
        open_source: () -> a random-access source, where it is streamed.

    Raises:
        ValueError: if the images or labels are not of the kind that the config says.
    """
    source = load() if config.resident else open_source()
    check_images(config, source.name, source.image_shape, source.label_names)
    labelled = config.num_classes is not None
    height, width, channels = source.image_shape
    what = f"{height}x{width}x{channels}"
    if labelled:
        what += f", {len(source.label_names)} classes"
    if isinstance(source, ImageArrays):
        labels = source.labels if labelled else None
        resident = Resident(source.images, labels)
        count = source.num_examples
        return Feed(
            f"{source.name}: {count:,} images {what}, held on the devices",
            resident,
            lambda *when: _chosen(count, *when),
        )
    return Feed(
        f"{source.name}: {len(source):,} images {what}, streamed",
        None,
        lambda *when: _streamed(source, config.workers, labelled, *when),
    )


def check_images(
    config: DataConfig,
    name: str,
    image_shape: tuple[int, int, int],
    label_names: tuple[str, ...],
) -> None:
    """Raises ValueError unless the images and labels are as the config says."""
    size = config.image_size
    if image_shape != (size, size, config.channels):
        raise ValueError(
            f"{name}: data.image_size and data.channels say {size} x {size} x "
            f"{config.channels}; the images are {' x '.join(map(str, image_shape))}"
        )
    if config.num_classes not in (None, len(label_names)):
        raise ValueError(
            f"{name}: data.num_classes must be the number of its classes, "
            f"{len(label_names)}, or None to ignore labels; got {config.num_classes}"
        )


def _chosen(
    count: int, seed: int, batch_size: int, first_step: int
) -> Generator[Chosen]:
    process, processes = jax.process_index(), jax.process_count()
    place = places(batch_size, process, processes)
    step = first_step
    while True:
        index = batch_indices(seed, step, batch_size, count)[place]
        yield Chosen(index.astype(np.int32), place.astype(np.int32))
        step += 1


def _streamed(
    source, workers: int, labelled: bool, seed: int, batch_size: int, first_step: int
) -> Generator[Batch]:
    process, processes = jax.process_index(), jax.process_count()
    place = places(batch_size, process, processes).astype(np.int32)
    for part in stream_batches(
        source,
        seed=seed,
        batch_size=batch_size,
        start_step=first_step,
        process_index=process,
        process_count=processes,
        num_workers=workers,
    ):
        yield Batch(part["image"], part["label"] if labelled else None, place)

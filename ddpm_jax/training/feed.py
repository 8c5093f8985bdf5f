"""The examples of every update, whichever way the data reach the devices."""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, batch_indices, natural_order, relabelled
from ddpm_jax.data.labels import check_same_classes, listed
from ddpm_jax.data.stream import places, stream_batches
from ddpm_jax.training.parallel import Chosen, Resident
from ddpm_jax.training.step import Batch


class Feed(NamedTuple):
    """A data set as the training loop sees it."""

    resident: Resident | None  # what the devices hold for the whole run, if it fits
    # (seed, batch_size, first_step) -> this process's part of each global batch
    batches: Callable[[int, int, int], Generator[Chosen | Batch]]


def as_source(data: Any, names: tuple[str, ...] | None = None) -> Any:
    """Images that Python gives, as a source.

    Args:
        data: an `ImageArrays`; a random-access source (`data.ImageSource`); uint8
            images (n, h, w, c); or a pair of them and of whole labels (n,), 0 and up.
        names: of the classes, where they are known: of a source, in any order.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(data, ImageArrays) or hasattr(data, "image_shape"):
        return data if names is None else relabelled(data, names)
    images, labels = data if isinstance(data, tuple) else (data, None)
    if labels is None:
        return ImageArrays(images=np.asarray(images))
    labels = np.asarray(labels)
    whole = np.issubdtype(labels.dtype, np.integer) and labels.size
    if not whole or labels.min() < 0:
        found = f"{labels.min()} among them" if whole else f"{labels.dtype}"
        raise ValueError(f"labels must be whole numbers from 0 on; got {found}")
    names = names or tuple(map(str, range(int(labels.max()) + 1)))
    return ImageArrays(
        images=np.asarray(images), labels=labels.astype(np.int32), label_names=names
    )


def given_kind(config: DataConfig, source: Any) -> DataConfig:
    """The config of images that Python gives: their size, and how they are held.

    Args:
        config: the data section.
        source: the images.

    Raises:
        ValueError: if they are not as the config says.
    """
    height, width, channels = source.image_shape
    if height != width:
        raise ValueError(f"images must be square; got {height} x {width}")
    return dataclasses.replace(
        config,
        source="given",
        image_size=height,
        channels=channels,
        resident=config.resident and isinstance(source, ImageArrays),
    )


def read_source(config: DataConfig, read: Callable, given: Any = None) -> Any:
    """The images of a config's training split, in memory or one by one.

    Labels are in the order of `config.class_names`; where that is None, a folder's are
    in the natural order of their names.

    Args:
        read: (config, split) -> the images that the config names.
        given: images of Python's in place of them.

    Raises:
        ValueError: if the images or labels are not of the kind that the config says.
    """
    source = read(config, config.split) if given is None else given
    check_images(config, source.name, source.image_shape, source.label_names)
    if config.source == "folder" and config.class_names is None:
        return relabelled(source, natural_order(source.label_names))
    return source


def kept_class_names(
    config: DataConfig, source: Any, before: DataConfig | None
) -> tuple[str, ...] | None:
    """What the labels of a run are called, in label order; None if it reads none.

    A run that goes on keeps its names and their order. One that did not keep them had
    the labels of a folder sorted as text.

    Args:
        source: what `read_source` returned.
        before: the config of the checkpoint that the run goes on from, if it does.

    Raises:
        ValueError: if the classes or their order are not those of the run.
    """
    if config.num_classes is None:
        return None
    found = tuple(source.label_names)
    if before is None:
        return found
    kept = before.class_names
    if kept is None:
        kept = tuple(sorted(found)) if config.source == "folder" else found
    if config.class_names not in (None, kept):
        raise ValueError(
            f"data.class_names must be those of the run, {listed(kept)}; "
            f"got {listed(config.class_names or ())}"
        )
    check_same_classes(source.name, found, kept)
    return kept


def describe(config: DataConfig, source: Any) -> str:
    """A line on the images and their classes, and one for each note on them."""
    height, width, channels = source.image_shape
    what = f"{source.name}: {len(source):,} images {height}x{width}x{channels}"
    if config.num_classes is not None:
        what += f", {config.num_classes} classes ({listed(source.label_names)})"
    held = "held on the devices" if isinstance(source, ImageArrays) else "streamed"
    return "\n".join((f"{what}, {held}", *getattr(source, "notes", ())))


def make_feed(config: DataConfig, source: Any) -> Feed:
    """The feed of what `read_source` returned."""
    labelled = config.num_classes is not None
    if isinstance(source, ImageArrays) and config.resident:
        labels = source.labels if labelled else None
        # NumPy's, until the runner puts them on the devices.
        resident = Resident(
            cast(jax.Array, source.images), cast(jax.Array | None, labels)
        )
        count = source.num_examples
        return Feed(resident, lambda *when: _chosen(count, *when))
    return Feed(None, lambda *when: _streamed(source, config.workers, labelled, *when))


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

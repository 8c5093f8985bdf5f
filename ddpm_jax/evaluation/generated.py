"""What is measured: samples of a model, a set a seed, or images that are there."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ddpm_jax import drawing, processes
from ddpm_jax.drawing import Draw, Parts
from ddpm_jax.evaluation.image_sets import ImageSet
from ddpm_jax.model import Model
from ddpm_jax.progress import Progress


class Given:
    """Images that are there: one set."""

    def __init__(self, images: ImageSet):
        self._images = images
        self.num, self.image_shape = images.num, images.image_shape

    def facts(self) -> dict[str, Any]:
        """What a protocol records of the images."""
        return {"n": self.num, **self._images.facts, "pixels": "as given"}

    def sets(self) -> Iterator[ImageSet]:
        """Yields the images."""
        yield self._images

    def remove(self) -> None:
        """Nothing was drawn."""


class Samples:
    """The samples of a model with several seeds, kept in a folder until they are used.

    What was drawn before a kill is not drawn again; many processes share the work.
    """

    def __init__(
        self,
        model: Model,
        draw: Draw,
        seeds: int,
        folder: pathlib.Path,
        to_pixels: Callable[[Any], np.ndarray],
    ):
        """Draws nothing yet; what cannot be drawn is refused.

        Args:
            draw: of the first seed; of a model with classes each in turn, where it
                names no label.
            seeds: how many sets.
            folder: for what is drawn.
            to_pixels: floats in [-1, 1] -> uint8.

        Raises:
            ValueError: as `drawing.walk_of`.
        """
        classes = model.config.data.num_classes
        if draw.label is None and classes is not None:
            draw = dataclasses.replace(draw, label=tuple(range(classes)))
        self._model, self._draw, self._to_pixels = model, draw, to_pixels
        self._folder = folder
        self.seeds = range(draw.seed, draw.seed + seeds)
        self._parts: list[Parts] = []
        self.num, self.image_shape = draw.num, model.image_shape  # of each set
        _, _, self.origin = drawing.walk_of(model, draw)

    def facts(self) -> dict[str, Any]:
        """What a protocol records of the samples."""
        labels = self._draw.labels(0, self.num)
        own = {"n": self.num, "seeds": list(self.seeds)}
        own |= {k: x for k, x in self.origin.items() if k not in ("seed", "label")}
        if labels is not None:
            counts = zip(*np.unique(labels, return_counts=True), strict=True)
            own["per class"] = {str(name): int(count) for name, count in counts}
        own["pixels"] = self._to_pixels.__name__
        clip = self._model.config.diffusion.clip
        return own | {"clip": dataclasses.asdict(clip)}

    def sets(self) -> Iterator[ImageSet]:
        """Draws one seed after the other; yields its images."""
        for number, seed in enumerate(self.seeds):
            yield self._draw_set(number, seed)

    def _draw_set(self, number: int, seed: int) -> ImageSet:
        draw = dataclasses.replace(self._draw, seed=seed)
        walk, steps, origin = drawing.walk_of(self._model, draw)
        origin |= {"num": draw.num, "batch": draw.batch_size}
        origin["pixels"] = self._to_pixels.__name__
        # What was drawn in another way, and is not finished, stays as it is.
        text = json.dumps(origin, sort_keys=True, default=str).encode()
        name = f"seed_{seed}_{hashlib.sha256(text).hexdigest()[:8]}"
        parts = Parts(self._folder / name, origin)
        self._parts.append(parts)
        shown = Progress(
            steps * draw.batches,
            f"seed {number + 1} of {len(self.seeds)}, step",
            images_per_unit=min(draw.batch_size, draw.num) / steps,
            shown=processes.is_main(),
        )

        def progress(first: int, index: int, x: jax.Array) -> None:
            shown.reach(steps * (first // draw.batch_size + 1) - index)

        drawing.draw_parts(
            parts,
            walk,
            draw.num,
            draw.batch_size,
            to_pixels=self._to_pixels,
            progress=progress,
        )
        shown.close()
        return ImageSet(
            name=f"seed {seed}",
            num=self.num,
            image_shape=self.image_shape,
            batches=lambda: parts.images(draw.batches),
            facts={},
        )

    def remove(self) -> None:
        """Deletes what was drawn; of many processes the main one calls it."""
        for parts in self._parts:
            parts.remove()
        with contextlib.suppress(OSError):  # what else lies there stays
            self._folder.rmdir()

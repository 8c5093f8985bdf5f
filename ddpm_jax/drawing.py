"""Many images of a model, drawn in batches that any number of processes share.

Batch b of a draw holds images b * batch_size and on. A finished batch is a file, put in
place in one piece; a draw that was killed goes on with the batches that are missing, on
as many processes as there are then. The images are the same, whoever draws them.
"""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ddpm_jax import processes
from ddpm_jax.images import to_uint8


class Parts:
    """The finished batches of one draw, on disk."""

    def __init__(self, directory: pathlib.Path, origin: dict[str, Any]):
        """Finds the batches of an earlier try at the same draw; drops any other's.

        Args:
            directory: of the batches alone.
            origin: all that the images depend on, as JSON.
        """
        self._directory = directory
        if processes.is_main():
            note = directory / "draw.json"
            ours = json.dumps(origin, sort_keys=True, default=str)
            if not note.exists() or note.read_text() != ours:
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(parents=True)
                note.write_text(ours)
        processes.barrier("parts")

    def path(self, batch: int) -> pathlib.Path:
        """Where this batch lies when it is finished."""
        return self._directory / f"{batch:06d}.npy"

    def put(self, batch: int, images: np.ndarray) -> None:
        """Writes a batch, whole or not at all."""
        draft = self._directory / f".{batch:06d}.draft"
        with draft.open("wb") as file:
            np.save(file, images)
        draft.replace(self.path(batch))

    def images(self, batches: int) -> Iterator[np.ndarray]:
        """The finished batches in order."""
        return (np.load(self.path(batch)) for batch in range(batches))

    def remove(self) -> None:
        """Deletes them."""
        shutil.rmtree(self._directory)


def draw_parts(
    parts: Parts,
    walk: Callable[[int, int], Iterator[tuple[int, jax.Array]]],
    num: int,
    batch_size: int,
    *,
    progress: Callable[[int, int, jax.Array], None] | None = None,
) -> None:
    """Draws the batches of this process that are missing, then waits for the others.

    Args:
        walk: (first image, how many) -> the reverse chain, as `Model.sample_iter`.
        progress: called with (first image, index, x) of every yield.
    """
    process, count = jax.process_index(), jax.process_count()
    for batch in range(process, -(-num // batch_size), count):
        if parts.path(batch).exists():
            continue
        first = batch * batch_size
        for index, x in walk(first, min(batch_size, num - first)):
            if progress is not None:
                progress(first, index, x)
        parts.put(batch, to_uint8(x))
    processes.barrier("drawn")

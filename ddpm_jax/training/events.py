"""A run's event file for TensorBoard."""

import contextlib
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.files import named_errors

FLUSH_EVERY = 30.0  # seconds


class Events:
    """Written with tensorboardX's parts, but here and not in a thread.

    Where its own `SummaryWriter` cannot write, its thread dies with a traceback, and
    the run stands still as soon as the queue to the thread is full.

    Raises:
        ImportError: if tensorboardX (the extra `[tensorboard]`) is not installed.
        OSError: if the file cannot be written; it names the directory.
    """

    def __init__(self, directory: pathlib.Path, first_step: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._summary, self._proto, self._directory = summary, event_pb2, directory
        self._flushed = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        with named_errors(directory):
            self._writer = event_file_writer.EventsWriter(str(directory / "events"))
        # What an earlier process has written of later steps is hidden.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(first_step + 1, file_version="brain.Event:2")
        self._put(first_step + 1, session_log=start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of a curve each."""
        for name, value in values.items():
            self._put(step, summary=self._summary.scalar(name, value))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An (h, w, c) uint8 picture."""
        picture = self._summary.image(name, image, dataformats="HWC")
        self._put(step, summary=picture)

    def close(self, ending: str) -> None:
        """Writes what is left; the file has no word for how a run ended."""
        with named_errors(self._directory), contextlib.closing(self._writer):
            self._writer.flush()

    def _put(self, step: int, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=step, **content)
        with named_errors(self._directory):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed >= FLUSH_EVERY:
                self._flushed = time.monotonic()
                self._writer.flush()

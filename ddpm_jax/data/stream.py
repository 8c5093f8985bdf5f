"""Batches of a set that does not fit in memory, read ahead of the step by Grain.

The batch of step s is the one that `batch_indices` names, so a streamed run sees what
an in-memory run sees, whatever the number of processes, workers or threads. Process p
of P reads every P-th example of the stream, starting with its p-th: global batches are
cut after shuffling, never before.
"""

import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Generator

import numpy as np

from ddpm_jax.data.batches import example_at
from ddpm_jax.data.sources import Example, ImageSource

NUM_POSITIONS = 2**62  # the stream does not end; Grain wants a length


def stream_batches(
    source: ImageSource,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int = 8,
) -> Generator[dict[str, np.ndarray]]:
    """This process's part of every global batch from `start_step` on, without end.

    Each part is {"image": uint8 (batch_size / process_count, h, w, c), "label": int32},
    the label only where the source has one; `places` says where its examples stand in
    the global batch. `close()` stops the reading; so does the end of the program.

    Args:
        source: anything with `__len__` and `__getitem__` (see `ImageSource`).
        seed: of the shuffling, the same on every process.
        batch_size: of the global batch.
        start_step: the first step; reading begins at its first example.
        process_index: which process this is, out of `process_count`.
        process_count: how many processes share the batch; must divide it.
        num_workers: Python processes to read with, for sources whose decoding holds the
            interpreter's lock; 0 reads in this process. Workers import the main module,
            which must be guarded by `if __name__ == "__main__"`.
        num_threads: threads to read with, per worker; as many batches are kept
            ready.

    Raises:
        ImportError: if Grain is not installed.
        ValueError: if the arguments do not fit together, the source is empty or, when
            the batch is asked for, an example cannot be read; the message names it.
    """
    local_size = len(places(batch_size, process_index, process_count))
    if seed < 0 or start_step < 0 or num_workers < 0 or num_threads < 0:
        raise ValueError(
            "seed, start_step, num_workers and num_threads must not be negative; "
            f"got {seed}, {start_step}, {num_workers} and {num_threads}"
        )
    if len(source) < 1:
        raise ValueError("the source must have at least one example; got none")
    grain = _import_grain()
    first = start_step * batch_size + process_index
    dataset = (
        grain.MapDataset.source(_Shuffled(source, seed))[first::process_count]
        .batch(local_size)
        .to_iter_dataset(grain.ReadOptions(num_threads, num_threads))
    )
    if num_workers:
        _mark_flags_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers, 2))
    batches = _read(dataset)
    # Left to the interpreter's own shutdown, Grain's workers end in tracebacks.
    atexit.register(_close, weakref.ref(batches))
    return batches


def places(
    batch_size: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
    """Where the examples of a process's part stand in the global batch, ascending.

    Example j of process p of P has place p + j P. An example's randomness belongs to
    its place, so this is what its keys are folded with.

    Args:
        batch_size: of the global batch.
        process_index: which process.
        process_count: how many there are.

    Returns:
        Places in 0..batch_size-1, shape (b,), b being batch_size / process_count.

    Raises:
        ValueError: if `process_count` does not divide `batch_size`, or if there is no
            such process.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            "batch_size must be a positive multiple of process_count; "
            f"got {batch_size} and {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must be in 0..{process_count - 1}; got {process_index}"
        )
    return np.arange(process_index, batch_size, process_count)


class _Shuffled:
    """The endless stream of examples, epoch after epoch, by position."""

    def __init__(self, source: ImageSource, seed: int) -> None:
        self.source = source
        self.seed = seed
        self.reader = os.getpid()

    def __len__(self) -> int:
        return NUM_POSITIONS

    def __getitem__(self, position: int) -> Example:
        if os.getpid() != self.reader:
            _end_with(self.reader)
        index = example_at(self.seed, position, len(self.source))
        try:
            return self.source[index]
        except Exception as error:  # whatever it is, say which example it is about
            name = getattr(self.source, "name", type(self.source).__name__)
            raise ValueError(
                f"{name}: example {index} of {len(self.source)} cannot be read: {error}"
            ) from error


@functools.cache
def _end_with(reader: int) -> None:
    """Lets this worker end when the process that reads from it does, however it does.

    A killed reader cannot stop its workers, and they would wait for ever.
    """

    def watch() -> None:
        while os.getppid() == reader:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read(dataset) -> Generator[dict[str, np.ndarray]]:
    iterator = iter(dataset)
    try:
        for batch in iterator:
            # Workers hand over shared memory, which is theirs to take back.
            yield {name: np.array(value) for name, value in batch.items()}
    finally:
        iterator.close()


def _close(reference: weakref.ref[Generator]) -> None:
    batches = reference()
    if batches is not None:
        with contextlib.suppress(ValueError):  # a thread is waiting for a batch
            batches.close()


def _import_grain():
    try:
        import grain
    except ImportError as error:
        raise ImportError(
            "streaming a data set needs Grain: pip install 'ddpm_jax[grain]'"
        ) from error
    return grain


def _mark_flags_as_parsed() -> None:
    """Lets Grain's workers read absl flags in a program that is not an absl app."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

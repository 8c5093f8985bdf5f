"""Streamed batches are the batches of `batch_indices`, on any layout."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import (
    FolderSource,
    ImageArrays,
    batch_indices,
    places,
    stream_batches,
)

NUM_EXAMPLES, BATCH_SIZE, SEED = 50, 8, 5


@pytest.fixture(scope="module")
def arrays():
    """Images that all differ, each labelled with its index."""
    images = np.random.default_rng(0).integers(
        0, 256, (NUM_EXAMPLES, 4, 4, 3), np.uint8
    )
    return ImageArrays(
        images=images,
        labels=np.arange(NUM_EXAMPLES, dtype=np.int32),
        label_names=tuple(map(str, range(NUM_EXAMPLES))),
        name="fifty",
    )


def global_batches(arrays, num_steps, process_count=1, **kwargs):
    """The parts of all processes, put together by `places`."""
    streams = [
        stream_batches(
            arrays,
            seed=SEED,
            batch_size=BATCH_SIZE,
            process_index=p,
            process_count=process_count,
            **kwargs,
        )
        for p in range(process_count)
    ]
    for _ in range(num_steps):
        images = np.zeros((BATCH_SIZE, *arrays.image_shape), np.uint8)
        labels = np.full(BATCH_SIZE, -1, np.int32)
        for p, stream in enumerate(streams):
            part = next(stream)
            assert part["image"].dtype == np.uint8 and part["label"].dtype == np.int32
            where = places(BATCH_SIZE, p, process_count)
            images[where], labels[where] = part["image"], part["label"]
        yield images, labels
    for stream in streams:
        stream.close()


def check(batches, arrays, first_step):
    for step, (images, labels) in enumerate(batches, first_step):
        index = batch_indices(SEED, step, BATCH_SIZE, NUM_EXAMPLES)
        np.testing.assert_array_equal(labels, index)
        np.testing.assert_array_equal(images, arrays.images[index])


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_share_one_stream(arrays, process_count):
    """20 steps are three epochs and more: the seams between epochs are there too."""
    check(global_batches(arrays, 20, process_count), arrays, 0)


@pytest.mark.parametrize("process_count", [1, 4])
def test_a_stream_starts_at_any_step(arrays, process_count):
    check(global_batches(arrays, 3, process_count, start_step=13), arrays, 13)
    check(global_batches(arrays, 3, process_count, start_step=10**9), arrays, 10**9)


@pytest.mark.parametrize("num_threads", [0, 1, 5])
def test_threads_change_nothing(arrays, num_threads):
    check(global_batches(arrays, 10, num_threads=num_threads), arrays, 0)


@pytest.mark.processes
def test_workers_change_nothing(arrays):
    check(global_batches(arrays, 8, num_workers=2, start_step=4), arrays, 4)


KILLED = """
import multiprocessing, os, signal
import numpy as np
from ddpm_jax.data import ImageArrays, stream_batches

if __name__ == "__main__":
    images = ImageArrays(images=np.zeros((9, 4, 4, 1), np.uint8))
    batches = stream_batches(images, seed=0, batch_size=3, num_workers=2)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_workers_end_with_a_reader_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # Whoever holds the pipe lives: its end is the end of them all.
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 2


def test_places_part_the_batch():
    for process_count in (1, 2, 4, 8):
        parts = [places(8, p, process_count) for p in range(process_count)]
        assert sorted(np.concatenate(parts)) == list(range(8))
    np.testing.assert_array_equal(places(8, 1, 4), [1, 5])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_record_is_named(tmp_path, num_workers):
    for i in range(6):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"not a picture")
    source = FolderSource(tmp_path, image_size=4)
    order = batch_indices(0, 0, 6, 6)
    before = int(np.flatnonzero(order == 3)[0])
    stream = stream_batches(source, seed=0, batch_size=1, num_workers=num_workers)
    for _ in range(before):
        assert set(next(stream)) == {"image"}
    with pytest.raises(ValueError, match=r"example 3 of 6 .*3\.png: cannot be read"):
        next(stream)
    stream.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(batch_size=6, process_count=4), "multiple of process_count; got 6 and 4"),
        (dict(process_index=2, process_count=2), r"process_index must be in 0\.\.1"),
        (dict(start_step=-1), "must not be negative"),
        (dict(seed=-1), "must not be negative"),
    ],
)
def test_bad_arguments_are_errors_at_once(arrays, bad, message):
    with pytest.raises(ValueError, match=message):
        stream_batches(arrays, **{"seed": 0, "batch_size": 8, **bad})


def test_a_missing_grain_is_named(arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"pip install 'ddpm_jax\[grain\]'"):
        stream_batches(arrays, seed=0, batch_size=8)

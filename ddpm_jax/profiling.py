"""Traces of a few steady steps, for xprof, TensorBoard or Perfetto."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ddpm_jax.checks import check_count

WARM = 3  # updates after the first, which compiles, that come before a trace


class UpdateTrace:
    """The trace of `count` updates of a run, after those that compile and warm up.

    What the run does between these updates (a save, a grid) is in it too.

    Raises:
        ValueError: if the run has too few updates.
    """

    def __init__(self, directory: pathlib.Path, count: int, *, first: int, last: int):
        """Of a run whose updates are first + 1 .. last.

        Raises:
            ValueError: if it has too few of them.
        """
        before = 1 + WARM
        if count + before > last - first:
            raise ValueError(
                f"--profile {count} needs {count + before} updates, one that compiles "
                f"and {WARM} that warm up before; the run has {last - first} left"
            )
        self._directory, self._count = directory, count
        self._begin, self._end = first + before, first + before + count
        self._open = contextlib.ExitStack()

    def edge(self, step: int) -> bool:
        """Whether the trace begins or ends after this update."""
        return step in (self._begin, self._end)

    def after(self, step: int, state: Any) -> str | None:
        """Begins or ends the trace where it is time; what to say of one that ended."""
        if step == self._begin:
            jax.block_until_ready(state)
            self._open.enter_context(tracing(self._directory))
        elif step == self._end:
            jax.block_until_ready(state)
            self._open.close()
            return f"traced {self._count} updates: {how_to_open(self._directory)}"
        return None

    def close(self) -> None:
        """Ends a trace under way, of a run that ends early."""
        self._open.close()


def trace_walk(
    directory: pathlib.Path,
    walk: Callable[[], Iterator[tuple[int, jax.Array]]],
    count: int,
) -> str:
    """Traces the first `count` steps of a walk, made once before to compile them.

    Args:
        directory: where the trace lies.
        walk: begins the walk, whose every item, an index and x (b, h, w, c), is made of
            `count` steps.
        count: steps.

    Returns:
        What to say of it.
    """
    jax.block_until_ready(next(walk()))
    steady = walk()
    with tracing(directory):
        jax.block_until_ready(next(steady))
    return f"traced {count} steps: {how_to_open(directory)}"


@contextlib.contextmanager
def tracing(directory: pathlib.Path) -> Iterator[None]:
    """A trace of what is done meanwhile, in a folder of its own below the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # an event a call would slow the host down
    jax.profiler.start_trace(directory, profiler_options=options)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def how_to_open(directory: pathlib.Path) -> str:
    """In words."""
    return (
        f"xprof --logdir {directory} (pip install xprof) shows it, and so does "
        "ui.perfetto.dev with the *.trace.json.gz in there"
    )


def check_profile(count: int | None, steps: int | None = None) -> None:
    """Raises ValueError unless it is None or a number of the steps to trace."""
    check_count("--profile", count)
    if count is not None and steps is not None and count > steps:
        raise ValueError(f"--profile must be at most the {steps} steps; got {count}")

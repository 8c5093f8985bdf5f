"""SIGINT and SIGTERM as a question that the loop asks between two steps."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """Which signal has asked the run to stop; None = none yet."""

    by: signal.Signals | None = None

    def asked(self, step: int) -> bool:
        """Whether to stop before this step: the same answer in every process."""
        if jax.distributed.is_initialized() and self.by is None:
            if multihost_utils.reached_preemption_sync_point(step):
                self.by = signal.SIGTERM
        return self.by is not None


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """While open, the first SIGINT or SIGTERM is noted; a second one acts as usual.

    Where JAX connects processes, its runtime takes SIGTERM and tells the others; there
    SIGINT is handed on as SIGTERM.
    """
    stop = Stop()
    before: dict[signal.Signals, Any] = {}

    def restore():
        for known, handler in before.items():
            signal.signal(known, handler)

    def note(number, frame):
        restore()
        stop.by = signal.Signals(number)

    def hand_on(number, frame):
        restore()
        os.kill(os.getpid(), signal.SIGTERM)

    together = jax.distributed.is_initialized()
    mine = (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM)
    for each in mine:
        before[each] = signal.getsignal(each)
        signal.signal(each, hand_on if together else note)
    try:
        yield stop
    finally:
        restore()

"""Signals to stop, as a question that the loop asks between two steps."""

import contextlib
import os
import signal
from collections.abc import Iterator

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
    """While open, the first of SIGINT, SIGTERM and SIGHUP is noted.

    A second one acts as usual, but for SIGHUP: a terminal that is closed sends it, and
    its shell sends it again, while the run saves. Where it is ignored from the start,
    as under nohup, it stays ignored.

    Where JAX connects processes, its runtime takes SIGTERM and tells the others; there
    the other two are handed on as SIGTERM.
    """
    stop = Stop()

    def restore():
        for known, handler in before.items():
            signal.signal(known, handler)

    def first():
        restore()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def note(number, frame):
        first()
        stop.by = signal.Signals(number)

    def hand_on(number, frame):
        first()
        os.kill(os.getpid(), signal.SIGTERM)

    together = jax.distributed.is_initialized()
    mine = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    if together:
        mine.remove(signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in mine}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        mine.remove(signal.SIGHUP)
    for each in mine:
        signal.signal(each, hand_on if together else note)
    try:
        yield stop
    finally:
        restore()

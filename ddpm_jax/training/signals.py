"""SIGINT and SIGTERM as a flag that the loop reads between two steps."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Asked:
    """Which signal has asked the run to stop; None = none yet."""

    by: signal.Signals | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[Asked]:
    """While open, the first SIGINT or SIGTERM is noted; a second one acts as usual."""
    asked = Asked()
    before: dict[signal.Signals, Any] = {}

    def note(number, frame):
        asked.by = signal.Signals(number)
        for known, handler in before.items():
            signal.signal(known, handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.getsignal(each)
        signal.signal(each, note)
    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

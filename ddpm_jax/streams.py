"""Standard output and error that end no program: a run outlives its log."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # a reader, a terminal, the stream itself


def outlive_readers() -> None:
    """Makes what is printed never the end of the program; commands call it first.

    A reader may go away (`| head -1`, a terminal that is closed): what is printed from
    then on is dropped. A disk may be full: what does not fit is dropped. A stream may
    be closed from the start (`2>&-`): it is as `/dev/null`. A character that the
    stream's encoding lacks is written as its escape.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            _occupy(descriptor)
            stream = open(os.devnull, "w")
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Lasting(stream, descriptor))


class _Lasting:
    """A stream whose failures are its own."""

    def __init__(self, stream: TextIO, descriptor: int):
        self._stream, self._descriptor = stream, descriptor

    def write(self, text: str) -> int:
        with self._failures_dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failures_dropped():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _failures_dropped(self):
        try:
            yield
        except OSError as error:
            if error.errno in GONE:
                self._to_null()

    def _to_null(self) -> None:
        """What waits in buffers, and what libraries write, then has a place to go."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._descriptor)
        os.close(null)


def _occupy(descriptor: int) -> None:
    """Opens a closed descriptor, or a file of the run would get it, and C++'s log."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)  # also where they are the same: processes inherit it
        os.set_inheritable(descriptor, True)
        if null != descriptor:
            os.close(null)

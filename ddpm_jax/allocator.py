"""What the C library does with the memory that a program has freed."""

import ctypes
import os
import platform

# Of malloc.h, for mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """From here on freed memory stays with the process; does nothing without glibc.

    XLA's CPU backend frees an update's temporary arrays after it and asks for them
    anew. Given back in between, every page of them is a fault and a page of zeros, a
    fifth of an update on the bundled digits. The process then holds what it held at its
    peak. Nothing is changed where `MALLOC_TRIM_THRESHOLD_` is in the environment.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_TOP_PAD, 2**26)
    mallopt(_MMAP_MAX, 0)

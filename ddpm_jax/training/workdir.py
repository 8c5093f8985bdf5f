"""The folder of a run: it has one owner, and every process of the run sees it."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import socket
import time
from collections.abc import Iterator
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax import processes

PATIENCE = 10.0  # seconds that a network file system may take to show a new file


@contextlib.contextmanager
def claimed(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the folder, and holds it while open; a process that dies lets go of it.

    Raises:
        OSError: if it cannot be written, if another run holds it, or if the processes
            of this run do not share it.
    """
    token = str(processes.agree(secrets.randbits(31)))
    with contextlib.ExitStack() as stack:
        if processes.is_main():
            workdir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((workdir / ".owner").open("a+"))
            _lock(file, workdir)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            if jax.process_count() > 1:
                file.write(f", run {token}")
            file.flush()
        if jax.process_count() > 1:
            _check_shared(workdir, token)
        yield


def _lock(file: TextIO, workdir: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise BlockingIOError(
            f"workdir {workdir} is in use by {file.read() or 'another run'}: one run "
            "at a time trains in it"
        ) from error
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _check_shared(workdir: pathlib.Path, token: str) -> None:
    """Raises OSError in every process unless all see what the main one has written."""
    processes.barrier("owner")
    deadline = time.monotonic() + PATIENCE
    sees = False
    while not sees and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            sees = (workdir / ".owner").read_text().endswith(token)
        if not sees:
            time.sleep(0.2)
    all_see = multihost_utils.process_allgather(np.array(sees))
    if not all_see.all():
        raise OSError(
            f"workdir {workdir} must be one folder for all processes; process "
            f"{int(np.argmin(all_see))} does not see there what process 0 has written"
        )

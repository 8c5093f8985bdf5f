"""A folder that a program writes has one owner, and all its processes see it."""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import socket
import time
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddpm_jax import processes

OWNER = ".owner"  # the locked file; it says who holds the folder
PATIENCE = 10.0  # seconds that a network file system may take to show a new file


@contextlib.contextmanager
def claimed(folder: pathlib.Path, name: str = "--out") -> Iterator[None]:
    """Makes the folder, and holds it while open; a process that dies lets go of it.

    All processes of a program call it, and hold the folder together. A folder that was
    made for it and in which nothing was written is removed at the end.

    Args:
        name: what the folder is, for messages: an option, a word.

    Raises:
        OSError: if it cannot be written, if another program holds it, or if the
            processes of this one do not share it; in every process.
    """
    token, refusal = secrets.randbits(31), None
    with contextlib.ExitStack() as stack:
        if processes.is_main():
            try:
                _claim(stack, folder, name, token)
            except OSError as error:
                refusal = error
        if jax.process_count() > 1:
            token = processes.agree(-1 if refusal else token)
        if refusal is not None:
            raise refusal
        if token < 0:
            raise OSError(f"{name} {folder} was refused to process 0")
        if jax.process_count() > 1:
            _check_shared(folder, name, token)
        yield


def _claim(
    stack: contextlib.ExitStack, folder: pathlib.Path, name: str, token: int
) -> None:
    """Locks the folder until the stack closes, and leaves a note of who holds it."""
    note = f"process {os.getpid()} on {socket.gethostname()}"
    if jax.process_count() > 1:
        note += f", run {token}"
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        stack.callback(_remove_empty, made)
        folder.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(_locked(folder, name))
        # While it is locked: whoever comes later makes a file of its own.
        stack.callback((folder / OWNER).unlink, missing_ok=True)
        file.truncate(0)
        file.write(note.encode())
    except BlockingIOError:
        raise
    except OSError as error:
        raise type(error)(
            f"{name} {folder} must be a folder that can be written; got "
            f"{error.strerror or error}"
        ) from error


def _locked(folder: pathlib.Path, name: str) -> BinaryIO:
    """The folder's note, open and locked."""
    while True:
        file: Any = (folder / OWNER).open(mode="ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two the last owner may have removed what was opened.
            if os.path.samestat(os.fstat(file.fileno()), (folder / OWNER).stat()):
                return file
        except BlockingIOError as error:
            with file:
                file.seek(0)
                owner = file.read().decode(errors="replace") or "another program"
                raise BlockingIOError(
                    f"{name} {folder} is in use by {owner}: one program at a time "
                    "writes there"
                ) from error
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                file.close()
                raise
            warnings.warn(
                f"the file system of {folder} has no locks: nothing keeps a second "
                "program from writing there at the same time",
                stacklevel=2,
            )
            return file
        file.close()


def _remove_empty(made: list[pathlib.Path]) -> None:
    """Removes these folders, innermost first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for place in made:
            place.rmdir()


def _check_shared(folder: pathlib.Path, name: str, token: int) -> None:
    """Raises OSError in every process unless all see what the main one has written."""
    processes.barrier("owner")
    deadline = time.monotonic() + PATIENCE
    sees = False
    while not sees and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            sees = (folder / OWNER).read_text().endswith(f"run {token}")
        if not sees:
            time.sleep(0.2)
    all_see = multihost_utils.process_allgather(np.array(sees))
    if not all_see.all():
        raise OSError(
            f"{name} {folder} must be one folder for all processes; process "
            f"{int(np.argmin(all_see))} does not see there what process 0 has written"
        )

"""Files that are complete or not there, and errors that say which file it was."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def named_errors(path: pathlib.Path | str) -> Iterator[None]:
    """Adds the path to an error of the system that names none: a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_file(path: pathlib.Path | str) -> Iterator[BinaryIO]:
    """A file to write, that takes its name when it is complete; or never does.

    Raises:
        OSError: if it cannot be written; it names the file.
    """
    path = pathlib.Path(path)
    draft = path.with_name(f".{path.name}.draft")
    try:
        with named_errors(path):
            with draft.open("wb") as file:
                yield file
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def enclosing_run(path: pathlib.Path) -> pathlib.Path | None:
    """The workdir of the run that a folder lies in: its checkpoints, its grids."""
    for place in path.absolute().parents[:3]:
        if (place / "checkpoints").is_dir():
            return place
    return None

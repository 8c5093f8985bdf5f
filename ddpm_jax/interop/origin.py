"""How the weights of an export came about, where its config cannot say it.

Beside the weights lies origin.json, as long as there is something to tell. An import
keeps it in the workdir, so that an export of that knows as much.
"""

import contextlib
import pathlib
from typing import NamedTuple

from ddpm_jax.interop.json_files import read_object, write_json

_FILE = "origin.json"


class Origin(NamedTuple):
    """What is known; by default nothing."""

    trained: bool = False  # whether data, optim and train of the config tell how
    raw: bool = False  # as the last update left them, not their average


def read_origin(folder: pathlib.Path) -> Origin:
    """Of the weights in a workdir, or of those in a file that lies in the folder.

    A file that cannot be read tells nothing.
    """
    told = {}
    with contextlib.suppress(OSError, ValueError):
        told = read_object(folder / _FILE)
    return Origin(*(told.get(name) is True for name in Origin._fields))


def write_origin(folder: pathlib.Path, origin: Origin) -> None:
    """Into the folder of the weights."""
    if origin != Origin():
        write_json(folder / _FILE, origin._asdict())

"""Which files of a folder are images, of which classes; and what is passed over."""

import collections
import errno
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.data.labels import listed, natural_order
from ddpm_jax.data.pixels import SUFFIXES

SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Listing(NamedTuple):
    """The images of a folder."""

    files: list[str]  # relative to it, classes and files in the order of their text
    labels: np.ndarray | None  # (n,) int32
    label_names: tuple[str, ...]
    notes: tuple[str, ...]  # what a person should know of it, a line each


def list_images(folder: Path) -> Listing:
    """Finds the images of a folder, as `FolderSource` describes.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such folder.
        PermissionError: if a folder in it must not be listed.
        ValueError: if the folder or one of its classes has no images, or if images lie
            both in the folder and in sub-folders.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: the image folder does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: must be a folder of images; got a file")
    walk = _Walk(folder)
    loose, classes = walk.scan("")
    if classes and loose:
        raise ValueError(
            f"{folder}: images must lie either in the folder or in sub-folders, one "
            f"for each class; got {len(loose)} images (the first is {loose[0]}) beside "
            f"{len(classes)} sub-folders"
        )
    if not classes:
        if not loose:
            raise ValueError(
                f"{folder}: the folder must hold images; found none with a suffix that "
                f"is read ({' '.join(SUFFIXES)}){walk.passed_over('; ')}"
            )
        return Listing(loose, None, (), walk.notes())
    names = natural_order(classes)
    files: list[str] = []
    labels: list[int] = []
    for name in classes:
        found = walk.below(name)
        if not found:
            raise ValueError(
                f"{folder / name}: every sub-folder is a class and must hold images; "
                f"found none with a suffix that is read{walk.passed_over('; ')}"
            )
        files += found
        labels += [names.index(name)] * len(found)
    notes = _splits(folder, names) + walk.notes()
    return Listing(files, np.array(labels, np.int32), names, notes)


class _Walk:
    """A walk through a folder that counts what it passes over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def scan(self, within: str) -> tuple[list[str], list[str]]:
        """The images and the folders in one folder, as sorted paths from the root."""
        images, folders = [], []
        try:
            with os.scandir(self.root / within) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path = os.path.join(within, entry.name)
                    kind = _kind(entry)
                    if entry.name.startswith("."):
                        self._pass(path, "hidden")
                    elif kind == "folder":
                        folders.append(path)
                    elif kind == "special":
                        self._pass(path, "no regular file")
                    elif entry.name.lower().endswith(SUFFIXES):
                        images.append(path)
                    elif kind == "broken":
                        self._pass(path, "dead link")
                    else:
                        suffix = os.path.splitext(entry.name)[1].lower()
                        self._pass(path, suffix or "without a suffix")
        except PermissionError as error:
            raise PermissionError(
                f"{self.root / within}: the folder must be readable; "
                f"got {error.strerror}"
            ) from error
        return images, folders

    def below(self, name: str) -> list[str]:
        """The images of a class at any depth, each folder once, links followed."""
        visited = {_identity(self.root)}  # a link that leads back ends there
        found: list[str] = []
        waiting = [name]
        while waiting:
            within = waiting.pop()
            identity = _identity(self.root / within)
            if identity in visited:
                self._pass(within, "read already")
                continue
            visited.add(identity)
            images, folders = self.scan(within)
            found += images
            waiting += reversed(folders)
        return sorted(found)

    def passed_over(self, before: str = "") -> str:
        """What was passed over, in words; empty if nothing was."""
        if not self._counts:
            return ""
        kinds = self._counts.most_common()
        text = ", ".join(f"{n:,} {kind} ({self._first[kind]})" for kind, n in kinds[:6])
        more = f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
        return f"{before}passed over, with the first of each: {text}{more}"

    def notes(self) -> tuple[str, ...]:
        """The same as lines."""
        text = self.passed_over()
        return (text,) if text else ()

    def _pass(self, path: str, kind: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, path)


def _kind(entry: os.DirEntry[str]) -> str:
    """folder, file, special (pipes, sockets, devices); of a link, what it leads to."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "special" if os.path.exists(entry.path) else "broken"
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return "broken"
        raise


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _splits(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The line that classes called train and test deserve."""
    found = [name for name in names if name.lower() in SPLITS]
    if len(found) < 2 and len(found) < len(names):
        return ()
    return (
        f"{listed(found)} look like splits and are read as classes; "
        f"for one split alone, give {folder / found[0]}",
    )

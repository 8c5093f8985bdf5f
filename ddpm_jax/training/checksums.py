"""SHA-256 of every file of a checkpoint: nothing below would notice a changed bit.

The sums lie in the checkpoint's own directory and appear together with it.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable

NAME = "sha256.json"
# Written when the directory takes its name, after the sums.
_LATER = "commit_success.txt"


def write(directory: pathlib.Path) -> None:
    """Writes the sums of all files below the directory's items."""
    sums = {
        str(path.relative_to(directory)): _sum(path)
        for item in sorted(directory.iterdir())
        if item.is_dir()
        for path in sorted(item.rglob("*"))
        if path.is_file() and path.name != _LATER
    }
    (directory / NAME).write_text(json.dumps(sums, indent=1))


def damage(directory: pathlib.Path, items: Iterable[str]) -> str | None:
    """What is wrong with the files of these items, or None where all is as written."""
    try:
        sums = json.loads((directory / NAME).read_text())
        wanted = {path: x for path, x in sums.items() if path.split("/")[0] in items}
    except OSError:
        return f"{NAME} is missing"
    except (ValueError, AttributeError):
        return f"{NAME} cannot be read"
    for item in items:
        if not any(path.split("/")[0] == item for path in wanted):
            return f"{item} is missing"
    for path, expected in wanted.items():
        try:
            if _sum(directory / path) != expected:
                return f"{path} does not match its checksum"
        except OSError:
            return f"{path} is missing"
    return None


def _sum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

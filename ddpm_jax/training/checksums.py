"""What a checkpoint is and what it holds: its step, its run, SHA-256 of every file.

Nothing below would notice a changed bit, or a folder that stands where another belongs.
The sums lie in the checkpoint's own directory, appear together with it, and carry a sum
of themselves.
"""

import hashlib
import json
import pathlib
import secrets
from collections.abc import Iterable
from typing import Any

NAME = "sha256.json"
RUN = "run.json"  # beside the checkpoints: which run they are of
METADATA = "_CHECKPOINT_METADATA"  # Orbax's, of the whole step
# Written when a directory takes its name, after the sums.
_LATER = "commit_success.txt"
_NAMED_AT = "commit_timestamp_nsecs"


def write(directory: pathlib.Path, step: int, run: str) -> None:
    """Writes the sums of all files below the directory, with its step and its run."""
    paths = (x for x in sorted(directory.rglob("*")) if x.is_file())
    sums = {
        str(path.relative_to(directory)): _sum(path)
        for path in paths
        if path.name not in (_LATER, NAME)
    }
    facts = {"step": str(step), "run": run, **sums}
    (directory / NAME).write_text(_sealed(facts, NAME))


def damage(
    directory: pathlib.Path,
    items: Iterable[str],
    *,
    also: Iterable[str] = (),
    step: int,
    run: str | None,
) -> str | None:
    """What is wrong with a checkpoint, or None where all is as written.

    Args:
        items: those that are read.
        also: more of them, which it may have been saved without.
        step: the one that its directory is called after.
        run: the one that its neighbours are of; None = not known.
    """
    items, checked = list(items), {*items, *also}
    try:
        sums = json.loads((directory / NAME).read_text())
        wanted = {path: x for path, x in sums.items() if path.split("/")[0] in checked}
    except OSError:
        return f"{NAME} is missing"
    except (ValueError, AttributeError, RecursionError):
        return f"{NAME} cannot be read"
    if (reason := _mistaken(directory, sums, step, run)) is not None:
        return reason
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


def step_of(directory: pathlib.Path) -> int | None:
    """The step that the sums of a checkpoint name, where they are whole."""
    facts = _facts(directory / NAME)
    return int(facts["step"]) if facts else None


def run_of(checkpoints: pathlib.Path) -> str | None:
    """The run that the checkpoints of this directory are of, where it is known."""
    return _facts(checkpoints / RUN).get("run")


def name_run(checkpoints: pathlib.Path, newest: pathlib.Path | None) -> str:
    """The same; where it is not known, that of the newest checkpoint, or a new one."""
    run = run_of(checkpoints)
    if run is None:
        known = _facts(newest / NAME).get("run") if newest else None
        run = known or secrets.token_hex(8)
        draft = checkpoints / f".{RUN}.draft"
        draft.write_text(_sealed({"run": run}, RUN))
        draft.replace(checkpoints / RUN)
    return run


def _facts(path: pathlib.Path) -> dict[str, str]:
    """What a sealed file says; nothing where it is lost, or not as it was written."""
    try:
        facts = json.loads(path.read_bytes())
        return facts if facts[path.name] == _seal(facts, path.name) else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _mistaken(
    directory: pathlib.Path, sums: dict[str, str], step: int, run: str | None
) -> str | None:
    """Why a directory is not the checkpoint that it stands for, or None."""
    if not {NAME, "step"} & set(sums):  # earlier versions wrote the items' sums alone
        try:
            readable = _metadata(directory / METADATA) is not None
        except OSError:
            return f"{METADATA} is missing"
        return None if readable else f"{METADATA} cannot be read"
    if sums.get(NAME) != _seal(sums, NAME):
        return f"{NAME} does not match its own checksum"
    if sums["step"] != str(step):
        return f"it is the checkpoint of step {sums['step']}"
    if run not in (None, sums["run"]):
        return f"it is of run {sums['run']}, not of {run}, which {RUN} names"
    try:
        if _sum(directory / METADATA) != sums[METADATA]:
            return f"{METADATA} does not match its checksum"
    except OSError:
        return f"{METADATA} is missing"
    return None


def _sealed(facts: dict[str, str], name: str) -> str:
    return json.dumps({**facts, name: _seal(facts, name)}, indent=1)


def _seal(facts: dict[str, str], name: str) -> str:
    """The sum of all entries but the one under `name`, which holds it."""
    rest = {key: value for key, value in facts.items() if key != name}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sum(path: pathlib.Path) -> str:
    if path.name == METADATA and (facts := _metadata(path)) is not None:
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(path: pathlib.Path) -> dict[str, Any] | None:
    """Orbax's words on the step, but for the time of its naming; None = no such."""
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    named_at = facts.pop(_NAMED_AT, None)
    return facts if isinstance(named_at, int | None) else None

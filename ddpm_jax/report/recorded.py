"""What a workdir holds, read without a device; what cannot be read becomes a note."""

import contextlib
import json
import math
import pathlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ddpm_jax.config import Config, from_dict
from ddpm_jax.text import reason
from ddpm_jax.training.integrity import complete_steps

MOST, LEAST = 1e150, 1e-150  # of what is drawn

Series = dict[str, dict[int, float]]  # a metric's values by step, in order of steps


@dataclass(kw_only=True)
class Recorded:
    """The record of a run, as far as there is one."""

    workdir: pathlib.Path
    config: Config | None = None
    series: Series = field(default_factory=dict)
    began: list[int] = field(default_factory=list)  # where it was resumed
    written: str | None = None  # when the last metrics were
    starts: list[dict[str, Any]] = field(default_factory=list)  # with what it ran
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # by file name
    grids: dict[int, pathlib.Path] = field(default_factory=dict)  # by step
    pictures: list[pathlib.Path] = field(default_factory=list)  # figures, drawn images
    checkpoints: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last one that anything tells of; 0 where nothing does."""
        logged = (max(values, default=0) for values in self.series.values())
        return max([0, *logged, *self.checkpoints, *self.grids])


def read(workdir: pathlib.Path) -> Recorded:
    """The record of the run in `workdir`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no run.
    """
    if not workdir.is_dir():
        raise FileNotFoundError(f"there is no folder {workdir}")
    found = Recorded(workdir=workdir)
    found.checkpoints = sorted(complete_steps(workdir / "checkpoints"))
    held = [x for x in ("config.json", "metrics.jsonl") if (workdir / x).is_file()]
    if not held and not found.checkpoints:
        raise ValueError(
            f"{workdir} holds no run: none of config.json, metrics.jsonl and "
            "checkpoints/"
        )
    found.config = _config(found)
    _read_metrics(found)
    starts = _values(found, "starts.json", [])
    found.starts = [x for x in starts if _is_start(x)] if type(starts) is list else []
    if found.starts and found.starts[0]["step"] == 0:  # all since the first are there
        found.began = sorted({x["step"] for x in found.starts[1:]} - {0})
    records = (workdir / "evaluation").glob("*.json")
    for path in sorted(records, key=lambda x: (x.stat().st_mtime, x.name)):
        record = _values(found, f"evaluation/{path.name}", {})
        if isinstance(record, dict) and isinstance(record.get("metrics"), dict):
            found.evaluations[path.name] = record
    for path in sorted((workdir / "samples").glob("step_*.png")):
        if match := re.fullmatch(r"step_(\d{1,15})", path.stem):
            found.grids[int(match[1])] = path
    found.grids = dict(sorted(found.grids.items()))
    for pattern in ("drawn/grid.png", "drawn/strip.png", "drawn/chain.gif"):
        found.pictures += workdir.glob(pattern)
    found.pictures += sorted((workdir / "figures").glob("*.png"))
    return found


def _values(found: Recorded, name: str, absent: Any) -> Any:
    """The JSON in a file of the workdir; what is none is noted."""
    path = found.workdir / name
    if not path.exists():
        return absent
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        found.notes.append(f"{name} cannot be read: {reason(error)}")
        return absent


def _config(found: Recorded) -> Config | None:
    values = _values(found, "config.json", None)
    if values is None:
        return None
    try:
        return from_dict(values)
    except (ValueError, TypeError) as error:
        found.notes.append(f"config.json is no config of today's: {reason(error)}")
        return None


def _is_start(value: Any) -> bool:
    return isinstance(value, dict) and _is_step(value.get("step"))


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _read_metrics(found: Recorded) -> None:
    """The curves: of a step that was logged twice, the later line.

    Resumed runs that have no starts.json begin with lines that tell how long that took.
    """
    path = found.workdir / "metrics.jsonl"
    if not path.is_file():
        return
    moment = time.localtime(path.stat().st_mtime)
    found.written = time.strftime("%Y-%m-%d %H:%M", moment)
    beyond = 0
    with path.open("rb") as file:
        for step, values in _lines(file):
            if "start_seconds" in values:
                found.began.append(step)
            for name, value in values.items():
                drawn = _drawable(value)
                beyond += not math.isnan(drawn) and drawn != value
                found.series.setdefault(name, {})[step] = drawn
    if beyond:
        found.notes.append(
            f"metrics.jsonl: {beyond:,} numbers cannot be drawn: beyond {MOST:g} they "
            f"are shown as not finite, below {LEAST:g} as 0"
        )
    found.series = {k: dict(sorted(x.items())) for k, x in found.series.items()}
    found.began = sorted(found.began)[1:]


def _drawable(value: float) -> float:
    """The value, or what is drawn in its place: axes are computed in float64."""
    if abs(value) > MOST:  # an int may be too large for a float
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < LEAST else value


def _lines(file: Any) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, numbers) of every line that is one; NaN for null."""
    for line in file:
        values: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(line)
        if not isinstance(values, dict) or not _is_step(values.get("step")):
            continue
        step = values.pop("step")
        numbers = {k: math.nan if x is None else x for k, x in values.items()}
        yield step, {k: x for k, x in numbers.items() if type(x) in (int, float)}

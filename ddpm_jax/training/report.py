"""What a person sees of a run: its summary, its progress, and its metrics on disk."""

import collections
import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from ddpm_jax.evaluation.report import environment
from ddpm_jax.files import named_errors, whole_file
from ddpm_jax.progress import log, speed, watched
from ddpm_jax.training.trackers import Tracker

SPEED_OVER = 20  # updates, at least, that a speed is the mean of


class Report:
    """Progress, metrics.jsonl and what a tracker takes of it.

    Progress is a bar, or in a log a line for each of metrics.jsonl. Only the main
    process of a run has one. A resumed run takes the lines after its first step back
    out of metrics.jsonl: it is about to write them again.

    Raises:
        OSError: from all but `say`, where a file cannot be written; it names the file.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        num_steps: int,
        batch_size: int,
        log_every: int,
        peak_flops: float | None = None,
        tracker: Tracker | None = None,
    ):
        """Of a run that does updates first_step + 1 .. num_steps.

        Args:
            peak_flops: of all devices, a second; None = unknown.
            tracker: is told of all curves and pictures; whoever opened it closes it.
        """
        self._batch_size, self._log_every = batch_size, log_every
        self._num_steps = num_steps
        self._losses: list[float] = []
        self._started: dict[str, float] = {}  # for the next line of metrics
        self._flops: Future[float] | None = None
        self._peak = peak_flops
        # When the last updates were seen to end, without the time of grids and saves.
        # The device runs ahead of what is seen: a few end at once before a save, and
        # the first after it is seen late. Over many that is evened out.
        kept = 1 + max(log_every, SPEED_OVER)
        self._ends = collections.deque([time.perf_counter()], maxlen=kept)
        self._paused = 0.0
        self._path = workdir / "metrics.jsonl"
        with named_errors(self._path):
            self._file = _resume_lines(self._path, first_step)
        self._tracker = tracker
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
            disable=not watched(),
        )

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of update number `step` (the first one is 1)."""
        self._losses.append(metrics["loss"])
        self._ends.append(time.perf_counter() - self._paused)
        self._bar.update(1)
        if step % self._log_every == 0:
            seconds = self._ends[-1] - self._ends[0]
            line = {
                "step": step,
                "loss": finite_mean(self._losses),
                "grad_norm": metrics["grad_norm"],
                "images_per_second": (len(self._ends) - 1) * self._batch_size / seconds,
            }
            line |= self._rate(line["images_per_second"]) | self._started
            if "skipped" in metrics:
                line["skipped"] = metrics["skipped"]
            self._write(line)
            self._losses.clear()
            self._started = {}

    def started(
        self, seconds: Mapping[str, float], flops: Future[float], text: str
    ) -> None:
        """Takes how long the start took, and the model FLOPs of an update, when they
        are counted.
        """
        self._started, self._flops = dict(seconds), flops
        self.say(text)

    def _rate(self, images_per_second: float) -> dict[str, float]:
        """Model FLOP/s, and their share of the peak where it is known."""
        if self._flops is None or not self._flops.result():
            return {}
        rate = self._flops.result() * images_per_second / self._batch_size
        share = {} if self._peak is None else {"share_of_peak": rate / self._peak}
        return {"model_flops_per_second": rate} | share

    def measured(self, step: int, values: Mapping[str, float], text: str) -> None:
        """Takes what was measured after update number `step`; shows the text."""
        self._keep(step, values)
        self.say(f"step {step:,}: {text}")

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and a point each for the tracker."""
        # JSON has no word for what is not finite.
        finite = {k: x if math.isfinite(x) else None for k, x in values.items()}
        with named_errors(self._path):
            self._file.write(json.dumps({"step": step} | finite) + "\n")
        if self._tracker is not None:
            points = {k: x for k, x in finite.items() if x is not None}
            self._tracker.scalars(points, step)

    def _write(self, line: dict[str, float]) -> None:
        """One line of training, wherever metrics go."""
        self._keep(int(line["step"]), line)
        text = f"loss {line['loss']:.4f}, {speed(line['images_per_second'])}"
        if self._bar.disable:
            log(f"step {line['step']:,} of {self._num_steps:,}, {text}")
        self._bar.set_postfix_str(text)

    def restart_clock(self) -> None:
        """Leaves what was done since the last update (a grid, a save) out of the speed.

        Called after the first update was started, it leaves out the compilation.
        """
        self._paused = time.perf_counter() - self._ends[-1]

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Hands an (h, w, c) uint8 picture to the tracker."""
        if self._tracker is not None:
            self._tracker.image(name, image, step)

    def say(self, message: str) -> None:
        """Prints a line above the progress bar."""
        self._bar.write(message)

    def close(self) -> None:
        """Ends the bar and closes metrics.jsonl."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(named_errors(self._path))
            stack.callback(self._file.close)
            stack.callback(self._bar.close)


def add_start(workdir: pathlib.Path, first_step: int) -> None:
    """Adds to starts.json with what the run goes on after a step, and when.

    It is a record: one that cannot be read is begun anew.

    Raises:
        OSError: if it cannot be written.
    """
    path, starts = workdir / "starts.json", []
    with contextlib.suppress(OSError, ValueError, RecursionError):
        starts = json.loads(path.read_text())
    if not isinstance(starts, list):
        starts = []
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    starts.append({"step": first_step, "time": moment, **environment()})
    with whole_file(path) as file:
        file.write((json.dumps(starts, indent=2) + "\n").encode())


def finite_mean(values: Sequence[float]) -> float:
    """The mean of the values that are finite; NaN where none is."""
    finite = [x for x in values if math.isfinite(x)]
    return sum(finite) / len(finite) if finite else math.nan


def _resume_lines(
    path: pathlib.Path, first_step: int, say: Callable[[str], Any] = print
) -> TextIO:
    """The file, open to append, with the lines up to this step and no later one.

    It is a log: a line that cannot be read is left out, and the run goes on.

    Args:
        say: is told how many lines could not be read. Half a line at the end is what a
            process leaves that was killed, and not counted.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    steps = [_step_of(line) for line in lines]
    kept = [
        line + b"\n"
        for line, step in zip(lines, steps, strict=True)
        if step is not None and step <= first_step
    ]
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(b"".join(kept))
    draft.replace(path)
    if lost := steps[:-1].count(None):
        say(f"{path}: left out what could not be read, lines: {lost}")
    return path.open("a", buffering=1)


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics; None where it is no such line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if type(step) is int else None

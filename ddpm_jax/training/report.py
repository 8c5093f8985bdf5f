"""What a person sees of a run: its summary, its progress, and its metrics on disk."""

import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm


class Report:
    """Progress bar, metrics.jsonl and, where tensorboardX is installed, its events.

    Only the main process of a run has one. A resumed run takes the lines after its
    first step back out of metrics.jsonl: it is about to write them again.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        first_step: int,
        num_steps: int,
        batch_size: int,
        log_every: int,
    ):
        self._batch_size, self._log_every = batch_size, log_every
        self._losses: list[float] = []
        self._began, self._counted = time.perf_counter(), 0
        self._file = _resume_lines(workdir / "metrics.jsonl", first_step)
        self._board = _tensorboard(workdir, first_step)
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
        )

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of update number `step` (the first one is 1)."""
        self._losses.append(metrics["loss"])
        self._counted += 1
        self._bar.update(1)
        if step % self._log_every == 0:
            seconds = time.perf_counter() - self._began
            line = {
                "step": step,
                "loss": finite_mean(self._losses),
                "grad_norm": metrics["grad_norm"],
                "images_per_second": self._counted * self._batch_size / seconds,
            }
            if "skipped" in metrics:
                line["skipped"] = metrics["skipped"]
            # JSON has no word for what is not finite.
            said = {k: x if math.isfinite(x) else None for k, x in line.items()}
            self._file.write(json.dumps(said) + "\n")
            self._bar.set_postfix_str(
                f"loss {line['loss']:.4f}, {line['images_per_second']:.0f} images/s"
            )
            if self._board is not None:
                for name, value in said.items():
                    if value is not None:
                        self._board.add_scalar(name, value, step)
            self._losses.clear()
            self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what was just done (a grid, a save) out of the speed."""
        self._began, self._counted = time.perf_counter(), 0

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Hands an (h, w, c) uint8 picture to TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def say(self, message: str) -> None:
        """Prints a line above the progress bar."""
        self._bar.write(message)

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._bar.close()
        self._file.close()
        if self._board is not None:
            self._board.close()


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


def _tensorboard(workdir: pathlib.Path, first_step: int):
    try:
        from tensorboardX import SummaryWriter  # the extra [tensorboard]
    except ImportError:
        return None
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

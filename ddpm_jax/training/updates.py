"""The updates under way: their losses are read once the device has got there."""

import collections
import math
import pathlib
from typing import Any

import jax

from ddpm_jax.training import checkpoints
from ddpm_jax.training.report import Report, finite_mean

SKIPS_IN_A_ROW = 100  # updates left out one after another that end a run

# Updates that may run ahead of the check that their loss is finite. The device never
# waits for the host, and a checkpoint is saved only after all before it were checked.
AHEAD = 2


class Updates:
    """Updates in their order, checked some time after they were begun."""

    def __init__(self, manager: Any, workdir: pathlib.Path, report: Report | None):
        """Of a run that may report each; the rest is what an error says.

        Args:
            manager: of the checkpoints in the workdir.
        """
        self._manager, self._workdir, self._report = manager, workdir, report
        self._pending: collections.deque = collections.deque()
        self._losses: list[float] = []  # since the last checkpoint
        self._in_a_row = 0  # updates that were not finite

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """An update was begun; its metrics are () each, or still to come."""
        self._pending.append((step, metrics))

    def check(self, ahead: int, patience: int) -> None:
        """Waits for all updates but the last `ahead`, and reports them.

        Raises:
            FloatingPointError: if so many in a row as there is patience for were not
                finite.
        """
        while len(self._pending) > ahead:
            step, pending = self._pending.popleft()
            metrics = {name: float(value) for name, value in pending.items()}
            found = _not_finite(step, metrics)
            self._in_a_row = self._in_a_row + 1 if found else 0
            if self._in_a_row >= patience:
                self._manager.wait_until_finished()
                good = checkpoints.latest_step(self._manager)
                kept = "no checkpoint yet" if good is None else f"step {good}"
                raise FloatingPointError(
                    f"{found}: training stopped; the newest good checkpoint in "
                    f"{self._workdir} is {kept}"
                )
            self._losses.append(metrics["loss"])
            if self._report is not None:
                self._report.step(step, metrics)

    def mean_loss(self) -> float:
        """Of the updates since the last call; NaN if none was finite."""
        mean = finite_mean(self._losses)
        self._losses.clear()
        return mean


def _not_finite(step: int, metrics: dict[str, float]) -> str | None:
    """What of an update is not finite, in words, or None."""
    # A gradient may be no number where the loss is one; the weights then are none.
    for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
        if not math.isfinite(metrics[name]):
            return f"the {what} of step {step} is {metrics[name]}"
    return None

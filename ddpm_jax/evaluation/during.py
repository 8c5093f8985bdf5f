"""What a run measures of its averaged weights while it trains.

The loss of held-out images by step, and the Frechet distance of samples to the training
images. All processes of a run call what is here, and have the same values.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from ddpm_jax import processes
from ddpm_jax.config import Config
from ddpm_jax.data import ImageArrays, relabelled
from ddpm_jax.evaluation.distance import Compared, Distance, drawn, find_compared
from ddpm_jax.evaluation.held_out import held_out_loss, levels_of, read_held_out
from ddpm_jax.model import Model

LOSS = "held_out_loss"


class Plan(NamedTuple):
    """What a run is going to measure."""

    every: int | None = None  # updates between two evaluations; None = no evaluation
    held_out: ImageArrays | None = None
    compared: Compared | None = None
    notes: tuple[str, ...] = ()  # what a person should know of it, a line each

    @property
    def best(self) -> str:
        """The name of the number that is lowest of the best weights."""
        if self.compared is not None:
            return self.compared.name
        return "loss" if self.held_out is None else LOSS

    def in_order(self, names: tuple[str, ...]) -> "Plan":
        """The plan with the labels of its images in the order of these class names."""
        if self.held_out is None:
            return self
        return self._replace(held_out=relabelled(self.held_out, names))


def plan(config: Config) -> Plan:
    """What the config asks for, as far as the data have it.

    Raises:
        ValueError, OSError, ImportError: if samples are to be measured, and what
            compares them is not on this machine.
    """
    wanted = config.evaluation
    if wanted.every is None:
        return Plan()
    measured, missing = [], ""
    held_out = None
    if wanted.images:
        held_out, missing = read_held_out(config.data, wanted.images)
    if held_out is not None:
        levels = levels_of(config.diffusion.schedule.num_steps, wanted.levels)
        measured.append(
            f"the loss of {held_out.num_examples:,} images of {held_out.name} at "
            f"{len(levels)} steps"
        )
    compared = find_compared(config.data) if wanted.samples else None
    if compared is not None:
        sampler, steps = drawn(config)
        measured.append(
            f"{compared.name} of {wanted.samples:,} samples ({sampler}, "
            f"{steps or 'all'} steps)"
        )
    notes = [f"no held-out loss: {missing}"] if missing else []
    if measured:
        notes.append(f"every {wanted.every:,} updates {', and '.join(measured)}")
    every = wanted.every if measured else None
    return Plan(every, held_out, compared, tuple(notes))


class Evaluator:
    """A model -> what was planned to be measured of it."""

    def __init__(self, plan: Plan, config: Config, source: Any):
        """Measures the training images, if samples are to be compared with them.

        Args:
            config: of the run.
            source: the training images, an `ImageArrays` or an `ImageSource`.

        Raises:
            ValueError: as `Distance`.
        """
        self._plan = plan
        steps = config.diffusion.schedule.num_steps
        self._levels = levels_of(steps, config.evaluation.levels)
        # As many at a time as an update takes, which the devices have room for.
        train, devices = config.train, jax.local_device_count()
        size = train.batch_size // train.accumulate // jax.process_count()
        self._batch_size = max(1, size // devices) * devices
        self._distance = None
        if plan.compared is not None:
            self._distance = Distance(
                plan.compared, config, source, batch_size=self._batch_size
            )

    def __call__(self, model: Model) -> dict[str, float]:
        """The numbers by name: held_out_loss, also at every step; errors; the distance.

        Args:
            model: its weights whole on a device of this process.
        """
        found: dict[str, float] = {}
        if self._plan.held_out is not None:
            found |= self._losses(model, self._plan.held_out)
        if self._plan.compared is not None and self._distance is not None:
            found[self._plan.compared.name] = self._distance(model)
        return processes.agree_on(found)

    def _losses(self, model: Model, images: ImageArrays) -> dict[str, float]:
        loss = held_out_loss(model, images, self._levels, batch_size=self._batch_size)
        found = {LOSS: loss.mean, f"{LOSS}_error": loss.mean_error}
        for name, values in ((LOSS, loss.loss), (f"{LOSS}_error", loss.error)):
            by_step = zip(loss.t.tolist(), values.tolist(), strict=True)
            found |= {f"{name}/t{t}": value for t, value in by_step}
        return found


def shown(values: Mapping[str, float]) -> str:
    """The numbers that a line of a log has room for."""
    error = values.get(f"{LOSS}_error", math.nan)
    parts = []
    for name, value in values.items():
        if name == LOSS:
            spread = f" +- {error:.4f}" if math.isfinite(error) else ""
            parts.append(f"held-out loss {value:.4f}{spread}")
        elif not name.startswith(LOSS):
            parts.append(f"{name} {value:.4g}")
    return ", ".join(parts)

"""Weights & Biases and MLflow, as `training.trackers` has them."""

import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

Ending = Literal["finished", "stopped", "failed"]  # of a run: stopped by a signal

PROJECT = "ddpm_jax"  # where the environment names none
AT_ONCE = 100  # parameters that MLflow takes


class Wandb:
    """A run of Weights & Biases; its own variables (WANDB_MODE, ...) say how.

    Without a network WANDB_MODE=offline writes to the workdir, for `wandb sync`.
    """

    def __init__(self, workdir: pathlib.Path, config: dict[str, Any], id: str | None):
        """Goes on with the run of that id; None begins one."""
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", workdir.resolve().name),
            dir=str(workdir),
            id=id,
            resume=None if id is None else "allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        self.id = self._run.id
        self.place = self._run.url or str(workdir / "wandb")
        self._run.config.update(config, allow_val_change=True)
        # A resumed run goes back to its checkpoint, and W&B's own steps never do.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `trackers.Service`."""
        self._run.log({**values, "step": step})

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """As `trackers.Service`: an (h, w, c) uint8 picture."""
        self._run.log({name: self._wandb.Image(image), "step": step})

    def close(self, ending: Ending) -> None:
        """As `trackers.Service`; 255 is W&B's own code of what was interrupted."""
        codes = {"finished": 0, "stopped": 255, "failed": 1}
        self._run.finish(exit_code=codes[ending])


class MLflow:
    """A run of MLflow; its own variables (MLFLOW_TRACKING_URI, ...) say where."""

    def __init__(self, workdir: pathlib.Path, config: dict[str, Any], id: str | None):
        """Goes on with the run of that id, if there is one, or begins one."""
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient()
        if id is not None and not self._goes_on(id):
            print(
                f"mlflow: {mlflow.get_tracking_uri()} has no run {id} to go on with; "
                "a new one is begun",
                flush=True,
            )
            id = None
        if id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            place = (
                found.experiment_id if found else self._client.create_experiment(name)
            )
            run = self._client.create_run(place, run_name=workdir.resolve().name)
            id = run.info.run_id
            params = [Param(key, value) for key, value in _flat(config)]
            for i in range(0, len(params), AT_ONCE):
                self._client.log_batch(id, params=params[i : i + AT_ONCE])
        self.id = id
        self.place = f"run {id} of {mlflow.get_tracking_uri()}"

    def _goes_on(self, id: str) -> bool:
        """Whether the store has that run, which is then under way; not one deleted."""
        from mlflow.exceptions import MlflowException

        absent = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        try:
            self._client.update_run(id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in absent:
                raise
            return False
        return True

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `trackers.Service`."""
        now = time.time_ns() // 1_000_000
        metrics = [self._metric(key, x, now, step) for key, x in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """As `trackers.Service`: an (h, w, c) uint8 picture."""
        self._client.log_image(self.id, image, f"{name}/step_{step:07d}.png")

    def close(self, ending: Ending) -> None:
        """As `trackers.Service`."""
        states = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self._client.set_terminated(self.id, states[ending])


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by their paths, as text that MLflow has room for."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(value)[:500]

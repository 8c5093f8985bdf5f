"""Where curves and pictures of a run go besides metrics.jsonl.

TensorBoard's file is part of the run. A service is not: its calls wait in a queue that
a thread empties, and where one fails the run says so once and goes on without it.
"""

import contextlib
import importlib.util
import json
import pathlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ddpm_jax.config import Config, to_dict
from ddpm_jax.files import whole_file
from ddpm_jax.training.events import Events
from ddpm_jax.training.services import Ending, MLflow, Wandb

SERVICES: dict[str, Callable[..., "Service"]] = {"wandb": Wandb, "mlflow": MLflow}
LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
IDS = "tracker.json"  # in the workdir: what a service calls the run
PATIENCE = 60.0  # seconds that a run waits at its end for a service


class Tracker(Protocol):
    """What a run tells of itself; the main process alone has one."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, all finite."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An (h, w, c) uint8 picture."""

    def close(self, ending: Ending) -> None:
        """Writes what is left, once the run is at its end."""


class Service(Protocol):
    """What somebody else's program or server takes; any call may fail."""

    id: str  # of the run, by which a resumed one goes on
    place: str  # where a person finds it

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker`."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """As `Tracker`: an (h, w, c) uint8 picture."""

    def close(self, ending: Ending) -> None:
        """The run is at its end."""


def check_installed(name: str) -> None:
    """Holds that the tracker of `config.train.tracker` can be imported.

    Raises:
        ImportError: if its library is not installed; it names the extra.
    """
    library = LIBRARIES.get(name)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ImportError(
            f"train.tracker={name} needs {library}: pip install 'ddpm_jax[{name}]'"
        )


def open_tracker(
    config: Config, workdir: pathlib.Path, first_step: int
) -> Tracker | None:
    """The tracker that the config names; None for none.

    "auto" is TensorBoard where it is installed.

    Raises:
        ImportError: as `check_installed`.
        OSError: if TensorBoard's file cannot be written.
    """
    name = config.train.tracker
    check_installed(name)
    if name in SERVICES:
        return Detached(name, lambda: _begin(name, config, workdir))
    if name == "none":
        return None
    with contextlib.suppress(ImportError):
        return Events(workdir / "tensorboard", first_step)
    return None


def _begin(name: str, config: Config, workdir: pathlib.Path) -> Service:
    """The service's run that the workdir knows, or a new one, which it then knows."""
    path = workdir / IDS
    ids: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        ids = json.loads(path.read_text())
    service = SERVICES[name](workdir, to_dict(config), ids.get(name))
    if ids.get(name) != service.id:
        with whole_file(path) as file:
            file.write((json.dumps(ids | {name: service.id}) + "\n").encode())
    return service


class Detached:
    """A service as a tracker that is never waited for, and that ends no run."""

    def __init__(self, name: str, begin: Callable[[], Service]):
        """Begins it in a thread of its own."""
        self._name, self._begin = name, begin
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker`."""
        self._calls.put(("scalars", dict(values), step))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """As `Tracker`: an (h, w, c) uint8 picture."""
        self._calls.put(("image", name, image, step))

    def close(self, ending: Ending) -> None:
        """Waits for what is left, but not for ever."""
        self._calls.put(("close", ending))
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            _warn(f"{self._name} has not taken all after {PATIENCE:.0f} s; it is left")

    def _work(self) -> None:
        try:
            service = self._begin()
            print(f"tracked by {self._name}: {service.place}", flush=True)
            while True:
                call, *arguments = self._calls.get()
                getattr(service, call)(*arguments)
                if call == "close":
                    return
        except BaseException as error:  # whatever a service's library may raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            _warn(f"{self._name} failed, and the run goes on without it: {reason}")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)

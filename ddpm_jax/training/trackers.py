"""Where curves and pictures of a run go besides metrics.jsonl.

TensorBoard's file is part of the run. A service is not: its calls wait in a queue that
a thread empties, and where one fails the run says so once and goes on without it.
"""

import contextlib
import importlib
import importlib.util
import json
import pathlib
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ddpm_jax.config import Config, to_dict
from ddpm_jax.files import whole_file
from ddpm_jax.text import cause, reason
from ddpm_jax.training.events import Events
from ddpm_jax.training.services import Ending, MLflow, Wandb

SERVICES: dict[str, Callable[..., "Service"]] = {"wandb": Wandb, "mlflow": MLflow}
LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
IDS = "tracker.json"  # in the workdir: what a service calls the run
PATIENCE = 60.0  # seconds that a run waits at its end for a service
ROOM = 2**28  # bytes of calls that wait for a service; what comes then is left out
CALL = 1000  # bytes of a call, about, besides its picture


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
        ImportError: if its library is not installed, which names the extra; or if that
            of TensorBoard is broken.
    """
    library = LIBRARIES.get(name)
    if library is not None and importlib.util.find_spec(library) is None:
        raise ImportError(
            f"train.tracker={name} needs {library}: pip install 'ddpm_jax[{name}]'"
        )
    if name == "tensorboard":  # a service is imported in its thread
        try:
            importlib.import_module(LIBRARIES[name])
        except Exception as error:  # a TypeError, say, of a protobuf that is too new
            raise ImportError(
                f"train.tracker={name} cannot import {library}: {reason(error)}"
            ) from cause(error)


def open_tracker(
    config: Config, workdir: pathlib.Path, first_step: int
) -> Tracker | None:
    """The tracker that the config names; None for none.

    "auto" is TensorBoard where it can be imported.

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
    if name == "auto":
        try:
            check_installed("tensorboard")
        except ImportError:
            return None
    return Events(workdir / "tensorboard", first_step)


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
        self._given = self._taken = 0  # bytes of calls; each of one thread alone
        self._behind = self._ended = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Tracker`."""
        self._put(CALL, "scalars", dict(values), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """As `Tracker`: an (h, w, c) uint8 picture."""
        self._put(CALL + image.nbytes, "image", name, image, step)

    def close(self, ending: Ending) -> None:
        """Waits for what is left, but not for ever."""
        self._put(0, "close", ending)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            _warn(f"{self._name} has not taken all after {PATIENCE:.0f} s; it is left")

    def _put(self, size: int, *call: Any) -> None:
        """Adds a call to those that wait, if there is still room, and a service."""
        if self._ended:
            return
        if size and self._given - self._taken + size > ROOM:
            if not self._behind:
                _warn(f"{self._name} is too slow: what it has no time for is left out")
            self._behind = True
            return
        self._given += size
        self._calls.put((size, *call))

    def _work(self) -> None:
        try:
            service = self._begin()
            print(f"tracked by {self._name}: {service.place}", flush=True)
            while True:
                size, call, *arguments = self._calls.get()
                self._taken += size
                getattr(service, call)(*arguments)
                if call == "close":
                    return
        except BaseException as error:  # whatever a service's library may raise
            told = reason(error, 300)
            _warn(f"{self._name} failed, and the run goes on without it: {told}")
        finally:
            self._ended = True
            with contextlib.suppress(queue.Empty):
                while True:
                    self._calls.get_nowait()


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)

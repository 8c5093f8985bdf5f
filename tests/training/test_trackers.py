"""Trackers are told what metrics.jsonl is, and never end or hold up a run.

The services' libraries are those installed, or else modules that record their calls.
"""

import dataclasses
import importlib.machinery
import json
import os
import pathlib
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
from toy import Toy, toy_config

from ddpm_jax import config
from ddpm_jax.training import events, loop, services, trackers

PICTURE = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)


def run(workdir, steps=4, **train):
    """A run of the toy, each update logged, every other one saved."""
    whole = toy_config(size=8, classes=10)
    train = {"num_steps": steps, "log_every": 1, "checkpoint_every": 2, **train}
    whole = dataclasses.replace(whole, train=dataclasses.replace(whole.train, **train))
    return loop.run(whole, workdir, network=Toy(classes=10))


def module(monkeypatch, name, **parts):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(parts)
    monkeypatch.setitem(sys.modules, name, made)
    return made


class Recording:
    """An object whose every method notes its call, and returns what it is told to."""

    def __init__(self, calls, name="", **returned):
        self._calls, self._name, self._returned = calls, name, returned

    def __getattr__(self, method):
        def call(*arguments, **named):
            self._calls.append((f"{self._name}{method}", arguments, named))
            return self._returned.get(method)

        return call


@pytest.fixture
def wandb(monkeypatch):
    """Calls of a stand-in for wandb; its runs have the ids a0, a1, ..."""
    calls = []

    def init(**named):
        begun = sum(name == "init" for name, *_ in calls)
        calls.append(("init", (), named))
        made = Recording(calls)
        made.id, made.url = named["id"] or f"a{begun}", None
        made.config = Recording(calls, "config.")
        return made

    settings = lambda **named: named  # noqa: E731
    image = lambda image: ("image", image)  # noqa: E731
    module(monkeypatch, "wandb", init=init, Settings=settings, Image=image)
    return calls


class Absent(Exception):
    """What MLflow raises of a run that its store does not have."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


@pytest.fixture
def mlflow(monkeypatch):
    """Calls of a stand-in for mlflow."""
    calls = []
    info = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r7"))
    client = Recording(calls, create_run=info, create_experiment="e1")
    uri = lambda: "sqlite:///x.db"  # noqa: E731
    made = module(
        monkeypatch, "mlflow", MlflowClient=lambda: client, get_tracking_uri=uri
    )
    made.entities = module(
        monkeypatch,
        "mlflow.entities",
        Metric=lambda *values: values,
        Param=lambda *values: values,
    )
    made.exceptions = module(monkeypatch, "mlflow.exceptions", MlflowException=Absent)
    return calls


def logged(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_wandb_has_the_run_and_goes_on_with_it(tmp_path, wandb, capsys):
    run(tmp_path, steps=2, tracker="wandb")
    run(tmp_path, steps=4, tracker="wandb")
    inits = [named for name, _, named in wandb if name == "init"]
    assert [x["id"] for x in inits] == [None, "a0"]
    assert inits[1]["resume"] == "allow" and inits[0]["dir"] == str(tmp_path)
    assert inits[0]["project"] == "ddpm_jax" and inits[0]["name"] == tmp_path.name
    told = [arguments[0] for name, arguments, _ in wandb if name == "log"]
    assert [x for x in told if "samples" not in x] == logged(tmp_path)
    pictures = [x for x in told if "samples" in x]
    assert [x["step"] for x in pictures] == [2, 4]
    (values,) = next(a for name, a, _ in wandb if name == "config.update")
    assert values["diffusion"]["schedule"]["num_steps"] == 6
    ends = [named for name, _, named in wandb if name == "finish"]
    assert ends == [{"exit_code": 0}] * 2
    assert f"tracked by wandb: {tmp_path}/wandb" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()


def test_mlflow_has_the_run_and_goes_on_with_it(tmp_path, mlflow):
    run(tmp_path, steps=2, tracker="mlflow")
    run(tmp_path, steps=4, tracker="mlflow")
    names = [name for name, *_ in mlflow]
    assert names.count("create_run") == 1
    assert ("update_run", ("r7",), {"status": "RUNNING"}) in mlflow
    batches = [named for name, _, named in mlflow if name == "log_batch"]
    metrics = [x["metrics"] for x in batches if "metrics" in x]
    told = [{key: value for key, value, _, _ in batch} for batch in metrics]
    assert told == logged(tmp_path)
    assert [batch[0][3] for batch in metrics] == [1, 2, 3, 4]
    params = dict(p for x in batches if "params" in x for p in x["params"])
    assert params["diffusion.schedule.num_steps"] == "6"
    assert all(len(x["params"]) <= 100 for x in batches if "params" in x)
    images = [arguments for name, arguments, _ in mlflow if name == "log_image"]
    assert [x[2] for x in images] == [f"samples/step_000000{n}.png" for n in (2, 4)]
    ended = [arguments for name, arguments, _ in mlflow if name == "set_terminated"]
    assert ended == [("r7", "FINISHED")] * 2


def test_a_run_that_mlflow_has_lost_is_begun_anew(
    tmp_path, mlflow, monkeypatch, capsys
):
    def lost(self, *_, **__):
        raise Absent

    (tmp_path / "tracker.json").write_text('{"mlflow": "old", "wandb": "w"}')
    monkeypatch.setattr(Recording, "update_run", lost, raising=False)
    run(tmp_path, steps=2, tracker="mlflow")
    assert [name for name, *_ in mlflow].count("create_run") == 1
    ids = json.loads((tmp_path / "tracker.json").read_text())
    assert ids == {"mlflow": "r7", "wandb": "w"}
    assert mlflow[-1] == ("set_terminated", ("r7", "FINISHED"), {})
    line = "mlflow: sqlite:///x.db has no run old to go on with; a new one is begun\n"
    assert line in capsys.readouterr().out


def test_a_store_that_cannot_be_asked_is_not_one_without_the_run(
    tmp_path, mlflow, monkeypatch, capsys
):
    def refuses(self, *_, **__):
        error = Absent("try later")
        error.error_code = "TEMPORARILY_UNAVAILABLE"
        raise error

    (tmp_path / "tracker.json").write_text('{"mlflow": "old"}')
    monkeypatch.setattr(Recording, "update_run", refuses, raising=False)
    run(tmp_path, steps=2, tracker="mlflow")
    assert mlflow == []
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"mlflow": "old"}
    assert "goes on without it: try later" in capsys.readouterr().err


def test_a_run_that_fails_is_a_failed_run(tmp_path, wandb, monkeypatch):
    def fails(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(loop.Updates, "check", fails)
    with pytest.raises(FloatingPointError):
        run(tmp_path, tracker="wandb")
    assert wandb[-1] == ("finish", (), {"exit_code": 1})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_is_a_stopped_run(
    number, tmp_path, wandb, mlflow, monkeypatch
):
    add = loop.Updates.add

    def stopped(updates, step, metrics):
        add(updates, step, metrics)
        os.kill(os.getpid(), number)

    for name in ("wandb", "mlflow"):
        with monkeypatch.context() as patch:
            patch.setattr(loop.Updates, "add", stopped)
            assert run(tmp_path / name, tracker=name).stopped_by == number
    assert wandb[-1] == ("finish", (), {"exit_code": 255})
    assert mlflow[-1] == ("set_terminated", ("r7", "KILLED"), {})


def test_a_run_that_was_begun_while_an_error_is_handled_is_none_that_fails(
    tmp_path, wandb
):
    try:
        raise KeyError("of somebody else")
    except KeyError:
        run(tmp_path, steps=2, tracker="wandb")
    assert wandb[-1] == ("finish", (), {"exit_code": 0})


@pytest.mark.parametrize("when", ["the log is opened", "the last save is waited for"])
def test_also_what_fails_around_the_updates_is_a_failed_run(
    when, tmp_path, wandb, monkeypatch
):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    if when == "the log is opened":
        monkeypatch.setattr(loop, "Report", fails)
    else:
        manager = loop.checkpoints.open_checkpoints(tmp_path / "other" / "checkpoints")
        monkeypatch.setattr(type(manager), "close", fails)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "run", steps=2, tracker="wandb")
    assert wandb[-1] == ("finish", (), {"exit_code": 1})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_library_that_is_missing_is_named_before_anything(
    name, tmp_path, monkeypatch
):
    found = importlib.util.find_spec
    library = trackers.LIBRARIES[name]
    hide = lambda x: None if x == library else found(x)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(ImportError) as error:
        run(tmp_path / "run", tracker=name)
    line = f"train.tracker={name} needs {library}: pip install 'ddpm_jax[{name}]'"
    assert str(error.value) == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    when, tmp_path, wandb, monkeypatch, capsys
):
    def fails(*_, **__):
        raise RuntimeError("no route\nto host")

    if when == "init":
        monkeypatch.setattr(sys.modules["wandb"], "init", fails)
    else:
        monkeypatch.setattr(Recording, when, fails, raising=False)
    assert run(tmp_path, tracker="wandb").step == 4
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 3, 4]
    warned = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert warned == [
        "warning: wandb failed, and the run goes on without it: no route to host"
    ]


class Stuck:
    """A service that takes nothing."""

    id, place = "x", "nowhere"

    def scalars(self, values, step):
        threading.Event().wait(60)


def test_a_service_that_takes_nothing_fills_no_memory(monkeypatch, capsys):
    goes_on, taken = threading.Event(), []

    class Slow(Stuck):
        def image(self, name, image, step):
            assert goes_on.wait(60)
            taken.append(step)

        def close(self, ending):
            taken.append(ending)

    picture = np.zeros((100, 100, 1), np.uint8)
    monkeypatch.setattr(trackers, "ROOM", 20 * (trackers.CALL + picture.nbytes))
    slow = trackers.Detached("slow", Slow)
    for step in range(1000):
        slow.image("samples", picture, step)
    assert slow._calls.qsize() <= 20
    goes_on.set()
    until(lambda: slow._calls.qsize() == 0)
    slow.image("samples", picture, 1000)  # it has caught up
    slow.close("finished")
    first, (last, ending) = taken[:-2], taken[-2:]
    assert first == list(range(len(first))) and 20 <= len(first) <= 21
    assert (last, ending) == (1000, "finished")
    assert capsys.readouterr().err.splitlines() == [
        "warning: slow is too slow: what it has no time for is left out"
    ]


def test_nothing_waits_for_a_service_that_has_failed(capsys):
    enough = threading.Event()

    def begin():
        assert enough.wait(60)
        raise RuntimeError("no route")

    dead = trackers.Detached("dead", begin)
    for count in (100, 1000):
        for step in range(count):
            dead.image("samples", PICTURE, step)
        enough.set()
        dead._thread.join(60)
        assert dead._calls.qsize() == 0
    dead.close("finished")
    assert capsys.readouterr().err.count("warning") == 1


def until(holds):
    end = time.perf_counter() + 60
    while not holds():
        assert time.perf_counter() < end
        time.sleep(0.01)


def test_a_tracker_that_hangs_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    stuck = trackers.Detached("stuck", Stuck)
    began = time.perf_counter()
    for step in range(1000):
        stuck.scalars({"loss": 1.0}, step)
        stuck.image("samples", PICTURE, step)
    stuck.close("finished")
    assert time.perf_counter() - began < 5
    assert "stuck has not taken all after 0 s; it is left" in capsys.readouterr().err


def test_what_there_is_besides_a_service(tmp_path):
    for name, kind in (
        *(("auto", events.Events), ("tensorboard", events.Events)),
        ("none", type(None)),
    ):
        train = dataclasses.replace(toy_config().train, tracker=name)
        told = dataclasses.replace(toy_config(), train=train)
        tracker = trackers.open_tracker(told, tmp_path / name, 0)
        assert type(tracker) is kind
        if tracker is not None:
            tracker.close("finished")
    assert not (tmp_path / "none").exists()


def test_without_tensorboard_nothing_is_tracked_unasked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert trackers.open_tracker(toy_config(), tmp_path, 0) is None


@pytest.mark.parametrize("error", [ImportError, TypeError])
def test_a_broken_tensorboard_is_told_where_it_is_asked_for(
    error, tmp_path, monkeypatch
):
    def broken(name):
        raise error("Descriptors cannot be created\ndirectly")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError) as raised:
        run(tmp_path / "run", tracker="tensorboard")
    assert str(raised.value) == (
        "train.tracker=tensorboard cannot import tensorboardX: Descriptors cannot be "
        "created directly"
    )
    assert not (tmp_path / "run").exists()
    assert trackers.open_tracker(toy_config(), tmp_path, 0) is None


def test_old_configs_are_tracked_as_they_were():
    values = config.to_dict(config.Config())
    del values["train"]["tracker"]
    assert config.from_dict(values).train.tracker == "auto"


def installed(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: a stand-in is tested in its place")


@pytest.mark.filterwarnings("default")
def test_wandb_itself_offline(tmp_path, monkeypatch):
    installed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = services.Wandb(tmp_path, {"a": {"b": 1}}, None)
    first.scalars({"loss": 1.0, "step": 1}, 1)
    first.image("samples", PICTURE, 1)
    first.close("finished")
    second = services.Wandb(tmp_path, {"a": {"b": 2}}, first.id)
    second.scalars({"loss": 0.5}, 1)
    second.close("stopped")
    assert second.id == first.id
    runs = list((tmp_path / "wandb").glob(f"offline-run-*-{first.id}"))
    assert runs and pathlib.Path(first.place) == tmp_path / "wandb"
    (picture,) = (tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png")
    assert picture.stat().st_size > 50


@pytest.mark.filterwarnings("default")
def test_mlflow_itself_in_a_file(tmp_path, monkeypatch, capsys):
    installed("mlflow")
    pytest.importorskip("sqlalchemy")
    import mlflow

    monkeypatch.chdir(tmp_path)  # where it keeps pictures
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    first = services.MLflow(tmp_path, {"a": {"b": 1}}, None)
    first.scalars({"loss": 1.0, "held_out_loss/t5": 2.0}, 1)
    first.image("samples", PICTURE, 1)
    first.close("stopped")
    assert mlflow.get_run(first.id).info.status == "KILLED"
    second = services.MLflow(tmp_path, {"a": {"b": 2}}, first.id)
    second.scalars({"loss": 0.5}, 2)
    second.close("finished")
    client = mlflow.MlflowClient()
    found = client.get_run(first.id)
    assert found.info.status == "FINISHED" and found.data.params == {"a.b": "1"}
    client.delete_run(first.id)
    third = services.MLflow(tmp_path, {}, first.id)
    assert third.id not in (first.id, services.MLflow(tmp_path, {}, "0" * 32).id)
    assert "has no run" in capsys.readouterr().out
    client.restore_run(first.id)
    history = client.get_metric_history(first.id, "loss")
    assert [(x.step, x.value) for x in history] == [(1, 1.0), (2, 0.5)]
    assert found.data.metrics["held_out_loss/t5"] == 2.0
    assert [x.path for x in client.list_artifacts(first.id, "samples")] == [
        "samples/step_0000001.png"
    ]

"""Traces: of exactly so many steps, where they lie, and what is refused."""

import collections
import dataclasses
import gzip
import json
import pathlib

import pytest
from toy import toy_config, toy_model, toy_network

from ddpm_jax import command, drawing, profiling
from ddpm_jax.training import loop

SMOKE = pathlib.Path(__file__).parent.parent / "configs" / "smoke.py"


def events(directory):
    """How often each name is in the one trace below the directory."""
    (path,) = directory.rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        found = json.load(file)["traceEvents"]
    return collections.Counter(x["name"] for x in found if x.get("name")), found


def train(workdir, steps, **options):
    config = toy_config(size=8, classes=None)
    run = dataclasses.replace(config.train, num_steps=steps, checkpoint_every=6)
    network = toy_network(config)
    config = dataclasses.replace(config, train=run)
    return loop.run(config, workdir, network=network, **options)


def test_a_trace_holds_so_many_updates_and_a_resumed_run_has_its_own(tmp_path, capsys):
    train(tmp_path, 6)
    assert not (tmp_path / "profile").exists()
    assert train(tmp_path, 14, profile=3).step == 14
    said = capsys.readouterr()
    assert f"traced 3 updates: xprof --logdir {tmp_path}/profile" in said.out + said.err
    counts, found = events(tmp_path / "profile")
    assert counts["update"] == 3
    steps = [int(x["args"]["step_num"]) for x in found if x.get("name") == "update"]
    first = 6 + 1 + profiling.WARM
    assert steps == [first + 1, first + 2, first + 3]


def test_a_run_that_ends_early_ends_its_trace(tmp_path, monkeypatch):
    def fail(*_, **options):
        raise OSError("the disk is full")

    monkeypatch.setattr(loop.checkpoints, "save", fail)
    with pytest.raises(OSError, match="disk is full"):
        train(tmp_path, 20, profile=10)
    assert events(tmp_path / "profile")[0]["update"] == 6 - 1 - profiling.WARM
    with profiling.tracing(tmp_path / "another"):  # none is under way
        pass


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (0, "--profile must be at least 1; got 0"),
        (-3, "--profile must be at least 1; got -3"),
        (3, "--profile 3 needs 7 updates, one that .*; the run has 6 left"),
    ],
)
def test_a_run_refuses_what_it_cannot_trace(tmp_path, count, line):
    with pytest.raises(ValueError, match=line):
        train(tmp_path, 6, profile=count)


def test_the_command_line_takes_it_beside_the_config(capsys):
    assert command.parse_train([], SMOKE).profile is None
    assert command.parse_train(["--profile", "5"], SMOKE).profile == 5
    with pytest.raises(SystemExit):
        command.parse_train(["--profile", "0"], SMOKE)
    assert "--profile must be at least 1; got 0\n" in capsys.readouterr().err


def test_a_trace_holds_so_many_steps_of_the_sampler(tmp_path):
    model, draw = toy_model(num_steps=6), drawing.Draw(num=4, label=(1,))
    traced = {}
    for count in (2, 5):
        walk = drawing.walk_by(model, draw, count)
        place = tmp_path / str(count)
        said = profiling.trace_walk(place, lambda w=walk: w(0, 4), count)
        assert said.startswith(f"traced {count} steps: xprof --logdir {place}")
        traced[count], _ = events(place)
    once_a_step = [x for x in traced[2] if traced[2][x] == 2 and traced[5][x] == 5]
    assert any("fusion" in name for name in once_a_step)
    with pytest.raises(ValueError, match="at most the 6 steps; got 7"):
        profiling.check_profile(7, 6)

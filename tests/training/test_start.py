"""What is said of a run's start, and that its FLOPs are those of the model."""

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import pytest
from toy import small_config, toy_config, toy_network

from ddpm_jax.build import make_network
from ddpm_jax.flops import count
from ddpm_jax.networks.convolutions import WINOGRAD
from ddpm_jax.training import loop, parallel, start
from ddpm_jax.training.setup import make_update

SMOKE = pathlib.Path(__file__).parent.parent.parent / "configs" / "smoke.py"


def traced_flops(config, network=None, *, by_hand=False):
    """Of the program that the loop compiles, on eight devices."""
    step, initial = make_update(config, network)
    mesh, state = parallel.make_mesh(), jax.eval_shape(initial)
    runner = parallel.jit_runner(step, mesh, state, by_hand=by_hand)
    jaxpr, _ = runner.ahead(None, start.abstract_batch(config, None))
    return count(jaxpr)


def test_flops_are_those_of_the_model_however_it_runs():
    config, wide = small_config(), {"channels": 128, "num_groups": 4}
    config = dataclasses.replace(
        config, network=dataclasses.replace(config.network, **wide)
    )
    network = make_network(config)
    _, initial = make_update(config)
    state = jax.eval_shape(initial)
    whole = start._count_again(config, start.as_defined(network), state)
    assert whole > 1e8
    assert traced_flops(config) == whole
    halves = dataclasses.replace(config.train, accumulate=2)
    halved = dataclasses.replace(config, train=halves)
    assert traced_flops(halved, by_hand=True) == whole
    recomputing, fewer = (
        network.clone(remat="blocks"),
        network.clone(convolutions=WINOGRAD),
    )
    assert traced_flops(config, recomputing) > 1.1 * whole
    assert traced_flops(config, fewer) < 0.7 * whole
    for other in (recomputing, fewer):
        assert start.as_defined(other) == start.as_defined(network)


def lines_of(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_first_line_tells_of_the_start_and_each_of_the_speed(tmp_path, capsys):
    config = small_config(num_steps=4, log_every=2, peak_flops=1e12)
    began = time.perf_counter() - 7
    loop.run(config, tmp_path, began=began)
    taken = time.perf_counter() - began
    first, second = lines_of(tmp_path)
    assert 7 < first["compile_seconds"] + 7 < first["start_seconds"] < taken
    assert "start_seconds" not in second and "compile_seconds" not in second
    for line in (first, second):
        updates = line["images_per_second"] / config.train.batch_size
        rate = traced_flops(config) * updates
        np.testing.assert_allclose(line["model_flops_per_second"], rate)
        peak = 1e12 * jax.device_count()
        np.testing.assert_allclose(line["share_of_peak"], rate / peak)
    said = capsys.readouterr().out
    assert said.count("first update after ") == 1
    assert ": imports and options 7." in said


def test_without_a_peak_there_is_no_share(tmp_path):
    config = toy_config(size=8, classes=None)
    loop.run(config, tmp_path, network=toy_network(config))
    (line,) = lines_of(tmp_path)
    assert "share_of_peak" not in line
    assert "model_flops_per_second" not in line  # the toy multiplies no matrices
    assert line["compile_seconds"] > 0


def test_a_process_knows_when_it_began():
    age = time.perf_counter() - start.process_began()
    assert time.process_time() / 64 < age < 1e5


def test_the_update_is_traced_once(tmp_path, monkeypatch):
    calls, config = [], toy_config(size=8, classes=None)
    made = loop.make_update

    def counting(*arguments):
        step, initial = made(*arguments)

        def counted(*values, **options):
            calls.append(1)
            return step(*values, **options)

        return counted, initial

    monkeypatch.setattr(loop, "make_update", counting)
    run = dataclasses.replace(config.train, num_steps=3)
    config = dataclasses.replace(config, train=run)
    assert loop.run(config, tmp_path, network=toy_network(config)).step == 3
    assert calls == [1]


@pytest.mark.parametrize("peak", [0.0, -1.0])
def test_a_peak_is_positive(peak):
    with pytest.raises(ValueError, match=r"train\.peak_flops must be positive"):
        small_config(peak_flops=peak)

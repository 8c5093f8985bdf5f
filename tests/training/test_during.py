"""What a run measures of its averaged weights, and what it keeps by that."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from toy import Toy, toy_config, toy_network
from training.test_run_log import records

from ddpm_jax import loading
from ddpm_jax.config import EvaluationConfig
from ddpm_jax.data import load_digits
from ddpm_jax.evaluation import during
from ddpm_jax.evaluation.held_out import held_out_loss, levels_of, read_held_out
from ddpm_jax.training import checkpoints, loop

LOSS = during.LOSS


def config(steps=4, evaluation=None, *, rate=0.05, sample=None, **train):
    """A toy on the digits; its average is far from its weights."""
    whole = toy_config(size=8, classes=10)
    train = {"checkpoint_every": 2, "num_steps": steps, **train}
    evaluation = {"every": 2, "images": 16, **(evaluation or {})}
    return dataclasses.replace(
        whole,
        optim=dataclasses.replace(
            whole.optim, learning_rate=rate, ema_decay=0.9, ema_warmup=False
        ),
        train=dataclasses.replace(whole.train, **train),
        sample=dataclasses.replace(whole.sample, every=10**6, **(sample or {})),
        evaluation=EvaluationConfig(**evaluation),
    )


def run(config, workdir, **options):
    return loop.run(config, workdir, network=toy_network(config), **options)


def lines(workdir, of=LOSS):
    """The lines of metrics.jsonl that hold this number."""
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if of in line]


def test_the_loss_is_a_table_of_the_averaged_weights(tmp_path, capsys):
    run(config(), tmp_path)
    first, second = lines(tmp_path)
    assert [first["step"], second["step"]] == [2, 4]
    data, _ = read_held_out(config().data, 16)
    t = levels_of(6, 10)
    for line in (first, second):
        found = {}
        for weights in ("ema", "raw"):
            model = loading.load(
                tmp_path, step=line["step"], weights=weights, network=Toy(classes=10)
            )
            found[weights] = held_out_loss(model, data, t)
        ema = found["ema"]
        assert line[LOSS] == pytest.approx(ema.mean, rel=1e-5)
        assert line[f"{LOSS}_error"] == pytest.approx(ema.mean_error, rel=1e-4)
        table = [line[f"{LOSS}/t{step}"] for step in range(6)]
        np.testing.assert_allclose(table, ema.loss, rtol=1e-5)
        errors = [line[f"{LOSS}_error/t{step}"] for step in range(6)]
        np.testing.assert_allclose(errors, ema.error, rtol=1e-4)
        assert abs(line[LOSS] - found["raw"].mean) > 0.01 * line[LOSS]
        assert len(line) == 1 + 2 * 7
    said = capsys.readouterr().out
    assert "every 2 updates the loss of 16 images of digits/test at 6 steps" in said
    assert f"step 2: held-out loss {first[LOSS]:.4f} +- " in said
    # Nothing else became a line, and the curves of training are as they were.
    assert [x["step"] for x in lines(tmp_path, "loss")] == [1, 2, 3, 4]

    points = [
        (event.step, value.tag, value.simple_value)
        for event in records(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    for line in (first, second):
        for name, value in line.items():
            if name != "step":
                found = [x for s, tag, x in points if (s, tag) == (line["step"], name)]
                assert found == [pytest.approx(value, rel=1e-6)], name


def test_the_distance_is_that_of_the_averaged_weights(tmp_path, capsys):
    whole = config(evaluation={"samples": 12, "images": 0})
    run(whole, tmp_path)
    found = lines(tmp_path, "digits-FD")
    assert [line["step"] for line in found] == [2, 4]
    assert all(set(line) == {"step", "digits-FD"} for line in found)
    evaluate = during.Evaluator(during.plan(whole), whole, load_digits("train"))
    measured = {}
    for weights in ("ema", "raw"):
        model = loading.load(tmp_path, weights=weights, network=Toy(classes=10))
        measured[weights] = evaluate(model)["digits-FD"]
    assert found[-1]["digits-FD"] == pytest.approx(measured["ema"], rel=1e-4)
    assert abs(measured["raw"] - measured["ema"]) > 0.01 * measured["ema"]
    said = capsys.readouterr().out
    assert "every 2 updates digits-FD of 12 samples (ddpm, 3 steps)" in said
    assert f"step 4: digits-FD {found[-1]['digits-FD']:.4g}" in said


def test_every_field_changes_what_is_measured(tmp_path):
    base = {"every": 2, "images": 16, "levels": 3, "samples": 12}
    base |= {"sampler": "ddpm", "steps": 3}

    def measured(name, **fields):
        run(config(2, base | fields), tmp_path / name)
        return lines(tmp_path / name, "digits-FD")

    plain = measured("plain")
    others = {"every": 1, "images": 15, "levels": 2, "samples": 10}
    others |= {"sampler": "ddim", "steps": 2}
    assert set(others) == {item.name for item in dataclasses.fields(EvaluationConfig)}
    for name, value in others.items():
        assert measured(name, **{name: value}) != plain, name


def test_an_evaluation_changes_nothing_of_the_run(tmp_path):
    run(config(evaluation={"samples": 8}), tmp_path / "with")
    without = dataclasses.replace(config(), evaluation=EvaluationConfig())
    run(without, tmp_path / "without")
    ours, theirs = (
        loading.load(tmp_path / name, network=Toy(classes=10)).params
        for name in ("with", "without")
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    keys = ("step", "loss", "grad_norm")
    a, b = (
        [[line[key] for key in keys] for line in lines(tmp_path / name, "loss")]
        for name in ("with", "without")
    )
    assert a == b
    assert lines(tmp_path / "without") == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before a save", "after an evaluation"])
def test_a_run_that_was_killed_has_the_lines_of_the_whole_one(
    tmp_path, monkeypatch, moment
):
    whole = config(6, {"samples": 8, "every": 3})
    run(whole, tmp_path / "whole")
    expected = lines(tmp_path / "whole")
    assert [line["step"] for line in expected] == [3, 6]
    save, measure = checkpoints.save, loop.during.Evaluator.__call__

    def dies(manager, state, *arguments, **options):
        if int(state.step) == 4:
            manager.wait_until_finished()
            raise Killed
        return save(manager, state, *arguments, **options)

    def dies_too(evaluator, model):
        found = measure(evaluator, model)
        if model.step == 6:
            raise Killed
        return found

    with monkeypatch.context() as patch:
        if moment == "before a save":
            patch.setattr(checkpoints, "save", dies)
        else:
            patch.setattr(loop.during.Evaluator, "__call__", dies_too)
        with pytest.raises(Killed):
            run(whole, tmp_path / "killed")
    run(whole, tmp_path / "killed")
    assert lines(tmp_path / "killed") == expected
    steps = [line["step"] for line in lines(tmp_path / "killed", "loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def kept(workdir):
    return sorted(checkpoints.complete_steps(workdir / "checkpoints"))


def scripted(monkeypatch, **values):
    """Makes an evaluation find these numbers, by step, in place of the real ones."""
    measure = loop.during.Evaluator.__call__

    def found(evaluator, model):
        names = measure(evaluator, model)
        new = {name: x[model.step] for name, x in values.items()}
        return {name.replace("_FD", "-FD"): x for name, x in ({**names, **new}).items()}

    monkeypatch.setattr(loop.during.Evaluator, "__call__", found)


BEST = {"keep_latest": 1, "keep_best": 1, "checkpoint_every": 1}
FALLING = {1: 9.0, 2: 8.0, 3: 7.0, 4: 6.0}
NAN = float("nan")


def test_the_best_by_its_samples_is_kept(tmp_path, monkeypatch, capsys):
    """Though its losses are the worst; and by a resumed run too."""
    distances = {1: 5.0, 2: 1.0, 3: NAN, 4: 3.0}
    scripted(monkeypatch, digits_FD=distances, **{LOSS: FALLING})
    for steps in (3, 4):
        run(config(steps, {"samples": 4}, **BEST), tmp_path)
        assert kept(tmp_path) == [2, steps]
        assert "train.keep_best ranks by digits-FD" in capsys.readouterr().out
    # Each save was ranked, though an evaluation is due at every second only.
    found = [line["digits-FD"] for line in lines(tmp_path, "digits-FD")]
    assert found == [5.0, 1.0, None, 3.0]


def test_without_samples_the_best_by_held_out_loss_is_kept(
    tmp_path, monkeypatch, capsys
):
    scripted(monkeypatch, **{LOSS: {1: 0.5, 2: 0.1, 3: NAN, 4: 0.3}})
    run(config(4, **BEST), tmp_path)
    assert kept(tmp_path) == [2, 4]
    assert f"train.keep_best ranks by {LOSS}" in capsys.readouterr().out


def test_without_an_evaluation_the_best_by_training_loss_is_kept(tmp_path, capsys):
    whole = config(4, rate=3.0, **BEST)
    whole = dataclasses.replace(whole, evaluation=EvaluationConfig())
    run(whole, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path, "loss")]
    best = 1 + int(np.argmin(losses))
    assert best != 4
    assert kept(tmp_path) == [best, 4]
    assert "train.keep_best ranks by loss" in capsys.readouterr().out


def test_a_run_that_begins_to_measure_ranks_what_it_has_measured(tmp_path, monkeypatch):
    """The losses of training so far are no distances, and smaller than all."""
    plain = dataclasses.replace(config(2, **BEST), evaluation=EvaluationConfig())
    run(plain, tmp_path)
    scripted(monkeypatch, digits_FD={3: 50.0, 4: 70.0, 5: 60.0})
    run(config(5, {"samples": 4}, **BEST), tmp_path)
    assert kept(tmp_path) == [3, 5]


GIVEN = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)


@pytest.mark.parametrize("kind", ["given", "same split"])
def test_without_held_out_images_the_loss_is_left_out_in_one_line(
    tmp_path, capsys, kind
):
    whole, options = config(2, **BEST), {}
    if kind == "given":
        data = dataclasses.replace(whole.data, num_classes=None)
        diffusion = dataclasses.replace(whole.diffusion, label_dropout=0.0)
        whole = dataclasses.replace(whole, data=data, diffusion=diffusion)
        options, why = {"data": GIVEN}, "images that Python gives have no test split"
    else:
        data = dataclasses.replace(whole.data, test_split="train")
        whole = dataclasses.replace(whole, data=data)
        why = "data.test_split=train is what is trained on"
    run(whole, tmp_path, **options)
    said = capsys.readouterr().out
    assert said.count("no held-out loss: ") == 1
    assert f"no held-out loss: {why}" in said
    assert "ranks by loss" in said and lines(tmp_path) == []
    assert "updates the loss of" not in said


def test_what_cannot_be_measured_ends_a_run_before_its_first_update(tmp_path):
    whole = config(2, {"samples": 4})
    data = dataclasses.replace(whole.data, num_classes=None)
    diffusion = dataclasses.replace(whole.diffusion, label_dropout=0.0)
    whole = dataclasses.replace(whole, data=data, diffusion=diffusion)
    with pytest.raises(ValueError, match="Python gives have none"):
        run(whole, tmp_path, data=GIVEN)
    steps = config(2, {"samples": 4, "sampler": "ddim", "steps": 1})
    with pytest.raises(ValueError, match="a single step is the first of the chain"):
        run(steps, tmp_path)
    assert kept(tmp_path) == [] and not (tmp_path / "metrics.jsonl").exists()


def test_labels_of_held_out_images_follow_the_runs_order(tmp_path):
    """Which a run that goes on knows from its checkpoint alone."""
    names = tuple(reversed(load_digits("test").label_names))

    def in_order(names, steps):
        whole = config(steps)
        data = dataclasses.replace(whole.data, class_names=names)
        return dataclasses.replace(whole, data=data)

    run(in_order(names, 4), tmp_path / "whole")
    run(in_order(names, 2), tmp_path / "resumed")
    run(in_order(None, 4), tmp_path / "resumed")
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")
    run(in_order(None, 4), tmp_path / "other")
    assert lines(tmp_path / "other")[0] != lines(tmp_path / "whole")[0]


@pytest.mark.parametrize(
    ("train", "expected"),
    [({"batch_size": 48}, 48), ({"batch_size": 48, "accumulate": 3}, 16)],
)
def test_it_takes_no_more_of_a_device_than_an_update(train, expected, monkeypatch):
    told = []
    monkeypatch.setattr(during, "Distance", lambda *a, **named: told.append(named))
    whole = config(evaluation={"samples": 4}, **train)
    during.Evaluator(during.plan(whole), whole, load_digits("train"))
    assert told == [{"batch_size": expected}]


def test_a_signal_saves_at_once_and_unmeasured(tmp_path, monkeypatch):
    class Stop:
        by = None

        def asked(self, step):
            if step == 3:
                self.by = loop.signal.SIGTERM
            return step == 3

    monkeypatch.setattr(loop, "stop_signals", lambda: contextlib.nullcontext(Stop()))
    assert run(config(6, checkpoint_every=6, keep_best=1), tmp_path).step == 3
    assert kept(tmp_path) == [3]
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_what_a_line_shows():
    values = {LOSS: 0.03125, f"{LOSS}_error": 0.0011, f"{LOSS}/t3": 0.5}
    values |= {f"{LOSS}_error/t3": 0.1, "digits-FD": 4.21234}
    assert during.shown(values) == "held-out loss 0.0312 +- 0.0011, digits-FD 4.212"
    alone = {LOSS: 0.5, f"{LOSS}_error": NAN}
    assert during.shown(alone) == "held-out loss 0.5000"

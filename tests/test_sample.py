"""sample.py as a person starts it: what it writes, and its one-line refusals."""

import dataclasses
import os
import pathlib
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from toy import toy_model

import ddpm_jax
from ddpm_jax import drawing, progress
from ddpm_jax.commands import sample
from ddpm_jax.diffusion.samplers import ddim
from ddpm_jax.images import grid, strip, to_picture, to_uint8
from ddpm_jax.ownership import claimed

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def run(small_run):
    return small_run


def draw(workdir, out, **options):
    files = {x: options.pop(x, False) for x in ("png", "npz", "strip", "gif")}
    wanted = drawing.Draw(**{"num": 6, "batch_size": 4, "steps": 5, **options})
    sample.main(sample.Options(workdir=workdir, out=out, draw=wanted, **files))
    return out


def drawn(workdir, out, **options):
    draw(workdir, out, npz=True, **options)
    return np.load(out / "samples.npz")["images"].astype(int)


def test_everything_that_can_be_written(run, tmp_path):
    draw(run, tmp_path, label=(3,), png=True, npz=True, strip=True, gif=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"grid.png", "samples.npz", "strip.png", "chain.gif", "00005.png"}
    samples = np.load(tmp_path / "samples.npz")["images"]
    assert samples.shape == (6, 8, 8, 1) and samples.dtype == np.uint8
    alone = np.asarray(Image.open(tmp_path / "00004.png"))
    np.testing.assert_array_equal(alone, samples[4, :, :, 0])
    grid = Image.open(tmp_path / "grid.png")
    assert grid.info["seed"] == "0" and grid.info["label"] == "3"
    assert Image.open(tmp_path / "chain.gif").n_frames > 1


def test_raw_weights_draw_other_images_than_their_average(run, tmp_path):
    raw, average = (
        drawn(run, tmp_path / weights, weights=weights, label=(3,))
        for weights in ("raw", "ema")
    )
    assert np.any(raw != average)


def load_changed(monkeypatch, run, change):
    """Has every draw read the run with other weights."""
    model = ddpm_jax.load(run)
    changed = dataclasses.replace(model, params=change(model.params))
    monkeypatch.setattr(ddpm_jax, "load", lambda path, *, weights, agree: changed)


def test_labels_take_turns(run, tmp_path, monkeypatch):
    def learned(params):  # two updates have not taught it to heed a label
        params = jax.tree.map(lambda x: x + 0.05, params)
        embedding = params["label"]["embedding"]
        far = jax.random.normal(jax.random.key(0), embedding.shape)
        return {**params, "label": {"embedding": far}}

    load_changed(monkeypatch, run, learned)
    mixed = drawn(run, tmp_path / "mixed", label=("0", "1", "2"), png=True)
    for label in (0, 1, 2):
        alone = drawn(run, tmp_path / str(label), label=(label,))
        assert np.abs(mixed - alone)[label::3].max() <= 1
        assert np.abs(mixed - alone)[label + 1 :: 3].max() > 5
    assert Image.open(tmp_path / "mixed" / "grid.png").info["label"] == "0 1 2"
    assert Image.open(tmp_path / "mixed" / "00004.png").info["label"] == "1"


@pytest.fixture
def toys(monkeypatch):
    """Has every draw read a toy, whose average is not its weights."""
    how = {"size": 8, "classes": 10, "num_steps": 12, "rederive": False}
    models = {x: toy_model(i, **how) for i, x in enumerate(("ema", "raw"))}
    monkeypatch.setattr(
        ddpm_jax, "load", lambda path, *, weights, agree: models[weights]
    )
    return models


def test_the_same_seed_gives_the_same_images_whatever_the_batch(toys, tmp_path):
    a, b = (drawn(tmp_path, tmp_path / str(size), batch_size=size) for size in (2, 6))
    assert np.abs(a - b).max() <= 1  # one grey level, where rounding falls on a half
    assert np.mean(a != b) < 0.01
    other = drawn(tmp_path, tmp_path / "other", seed=1)
    assert np.mean(other != b) > 0.5


def test_ddim_is_told_whether_to_derive_eps_again(toys, tmp_path):
    how = {"sampler": "ddim", "steps": 5}
    ours = drawn(tmp_path, tmp_path / "config", **how)
    for option, same in ((True, False), (False, True)):
        told = drawn(tmp_path, tmp_path / str(option), rederive=option, **how)
        assert np.array_equal(told, ours) == same
    with pytest.raises(ValueError, match="rederive belongs to the sampler ddim"):
        draw(tmp_path, tmp_path / "ddpm", rederive=True)


BASE = {"num": 5, "batch_size": 5, "steps": 6, "sampler": "ddim", "label": (4,)}
OPTIONS = [
    *({"sampler": x} for x in ("ddpm", "dpm_solver_pp", "unipc", "heun")),
    {"seed": 3},
    {"weights": "raw"},
    {"steps": 4},
    {"steps": None},
    {"spacing": "trailing"},
    {"spacing": "karras"},
    {"spacing": "karras", "lambda_min": -1.0},
    {"sampler": "unipc", "lambda_min": -1.0},
    {"eta": 0.3},
    {"eta": 1.0},
    {"rederive": True},
    {"label": None},
    {"label": (7,)},
    {"label": (1, "8")},
    {"guidance": 2.5},
]


def in_python(models, *, num, seed=0, weights="ema", eta=0.0, label=None, **how):
    """The call that sample.py stands for."""
    how.pop("batch_size")
    if eta:
        how["sampler"] = ddim(eta=eta)
    if label is not None:
        how["label"] = [int(label[i % len(label)]) for i in range(num)]
    *_, (_, x) = models[weights].sample_iter(jax.random.key(seed), num, **how)
    return to_uint8(x).astype(int)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_every_option_is_the_same_call_in_python(toys, tmp_path, options):
    told = {**BASE, **options}
    images = drawn(tmp_path, tmp_path / "out", **told)
    python = in_python(toys, **told)
    assert np.abs(images - python).max() <= 1
    assert np.abs(images - in_python(toys, **BASE)).max() > 2
    if told.pop("lambda_min", None):  # else it might be the spacing alone
        assert np.abs(images - in_python(toys, **told)).max() > 2


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [("ddim", "uniform"), ("dpm_solver_pp", "logsnr"), ("heun", "heun")],
)
def test_a_picture_says_how_it_was_drawn(toys, tmp_path, sampler, spacing):
    told = {"sampler": sampler, "label": (1,), "guidance": 2.0, "seed": 7}
    draw(tmp_path, tmp_path / "out", **told)
    info = Image.open(tmp_path / "out" / "grid.png").info
    said = {"sampler": sampler, "label": "1", "guidance": "2.0", "seed": "7"}
    said |= {"spacing": spacing, "steps": "5", "eta": "0.0", "weights": "ema"}
    assert said.items() <= info.items()
    assert info["trained steps"] == "0" and info["workdir"] == str(tmp_path)


@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_of_all_steps_there_is_no_spacing(toys, tmp_path, sampler):
    draw(tmp_path, tmp_path / "out", sampler=sampler, steps=None, spacing="uniform")
    info = Image.open(tmp_path / "out" / "grid.png").info
    assert (info["steps"], info["spacing"]) == ("None", "None")


def test_pictures_hold_the_images_and_their_chain(toys, tmp_path):
    told = {**BASE, "num": 4, "batch_size": 4}
    images = drawn(tmp_path, tmp_path / "out", strip=True, gif=True, png=True, **told)
    out = tmp_path / "out"
    shown = np.asarray(to_picture(grid(images.astype(np.uint8))))
    np.testing.assert_array_equal(np.asarray(Image.open(out / "grid.png")), shown)
    walked = toys["ema"].sample_iter(
        jax.random.key(0), 4, steps=6, sampler="ddim", label=4
    )
    frames = [to_uint8(x) for _, x in walked]
    expected = np.asarray(to_picture(strip(frames))).astype(int)
    found = np.asarray(Image.open(out / "strip.png")).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 1
    pictures = [np.asarray(to_picture(grid(frame))).astype(int) for frame in frames]
    # Pillow shows a frame that is like the one before for longer.
    pictures = [x for i, x in enumerate(pictures) if np.any(x != pictures[i - 1])]
    moving = Image.open(out / "chain.gif")
    assert moving.n_frames == len(pictures) > 3
    for i, picture in enumerate(pictures):
        moving.seek(i)
        assert np.abs(np.asarray(moving.convert("L")) - picture).max() <= 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"label": (11,)}, r"a label must lie in 0\.\.9; got 11"),
        ({"label": (*range(9), 99)}, r"a label must lie in 0\.\.9; got 99"),
        ({"label": ("cat",)}, r"a label must be one of 0, 1, .*, 9; got 'cat'"),
        ({"steps": 1}, "a single step is the first of the chain"),
        ({"steps": 21}, r"must lie in 1\.\.20; got 21"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"sampler": "ddim", "eta": 1.5}, "eta"),
        ({"eta": 0.5}, "eta belongs to the sampler ddim"),
        ({"guidance": 2.0}, "guidance strengthens a label"),
        ({"num": 0}, "--num must be at least 1; got 0"),
        ({"spacing": "even"}, "spacing must be one of"),
        ({"spacing": "logsnr", "steps": None}, "--spacing logsnr spaces so many"),
        ({"lambda_min": -3.0, "steps": None}, "--lambda-min -3.0 spaces so many"),
        ({"lambda_min": -3.0}, "lambda_min belongs to .*; got -3.0 with 'uniform'"),
    ],
)
def test_refusals_name_the_rule(run, tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        draw(run, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def unconditional(monkeypatch):
    """Has every draw read a toy that knows no labels."""
    model = toy_model(size=8, classes=None)
    monkeypatch.setattr(ddpm_jax, "load", lambda path, *, weights, agree: model)


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0}])
def test_a_label_needs_a_conditional_model(unconditional, tmp_path, options):
    with pytest.raises(ValueError, match="no labels"):
        draw(tmp_path, tmp_path, label=(3,), **options)


def test_guidance_needs_a_conditional_model(unconditional, tmp_path):
    with pytest.raises(ValueError, match="class-conditional"):
        draw(tmp_path, tmp_path, guidance=2.0)


def test_a_folder_has_one_draw_at_a_time(run, tmp_path):
    draw(run, tmp_path, seed=1)
    before = {x: x.read_bytes() for x in tmp_path.iterdir()}
    with claimed(tmp_path):
        owner = rf"--out {tmp_path} is in use by process {os.getpid()} on"
        with pytest.raises(OSError, match=owner):
            draw(run, tmp_path)
    assert {x: x.read_bytes() for x in tmp_path.iterdir()} == before


def test_what_stays_of_an_earlier_draw_is_said(run, tmp_path, capsys):
    draw(run, tmp_path, png=True, gif=True)
    (tmp_path / "notes.png").touch()  # nobody's draw
    assert "earlier draw" not in capsys.readouterr().out
    draw(run, tmp_path, num=5, png=True)
    stays = "; 2 files of an earlier draw stay there: 00005.png .. chain.gif\n"
    assert capsys.readouterr().out.endswith(f"into {tmp_path}{stays}")
    draw(run, tmp_path, png=True)
    assert "; chain.gif of an earlier draw stays there" in capsys.readouterr().out


def test_a_log_gets_lines(run, tmp_path, monkeypatch, capsys):
    """Captured, stderr is no terminal: no bar, and at the least the last step."""
    draw(run, tmp_path)
    said = capsys.readouterr().err
    assert "\r" not in said and "step 10 of 10" in said
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    draw(run, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"step {i} of 10" for i in range(1, 11)
    ]
    assert lines[-1].endswith(" images/s")


class Killed(Exception):
    pass


def kill(workdir, out, **options):
    """Draws until all batches are there, and dies."""

    def die(*arguments, **options):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "write_pictures", die)
        with pytest.raises(Killed):
            draw(workdir, out, **options)
    return {x: x.read_bytes() for x in (out / "unfinished").iterdir()}


def test_a_refused_draw_leaves_the_batches_of_another(run, tmp_path):
    before = kill(run, tmp_path)
    assert len(before) == 3  # two batches and what they are
    for wrong in ({"label": (99,)}, {"steps": 99}, {"guidance": 2.0}, {"sampler": "x"}):
        with pytest.raises(ValueError):
            draw(run, tmp_path, **wrong)
    assert {x: x.read_bytes() for x in (tmp_path / "unfinished").iterdir()} == before


def test_other_weights_start_anew(run, tmp_path, monkeypatch):
    kill(run, tmp_path)
    load_changed(monkeypatch, run, partial(jax.tree.map, lambda x: x + 0.1))
    mine = drawn(run, tmp_path)
    np.testing.assert_array_equal(mine, drawn(run, tmp_path / "other"))


def test_the_digest_is_that_of_one_model(run):
    model = ddpm_jax.load(run)
    mine = drawing.digest(model)
    assert drawing.digest(model.over_local_devices()) == mine
    leaves, form = jax.tree.flatten(model.params)
    leaves[0] = leaves[0].at[0].add(1e-3)
    params = jax.tree.unflatten(form, leaves)
    assert drawing.digest(dataclasses.replace(model, params=params)) != mine
    diffusion = dataclasses.replace(model.config.diffusion, clip=False)
    config = dataclasses.replace(model.config, diffusion=diffusion)
    assert drawing.digest(dataclasses.replace(model, config=config)) != mine


@pytest.mark.parametrize("main", [True, False])
def test_processes_read_one_step_and_leave_together(run, tmp_path, monkeypatch, main):
    met = []

    def barrier(name):
        met.append((name, (tmp_path / "grid.png").exists()))

    def agree(step):
        met.append(step)
        return step

    monkeypatch.setattr(drawing.processes, "barrier", barrier)
    monkeypatch.setattr(drawing.processes, "agree", agree)
    monkeypatch.setattr(drawing.processes, "is_main", lambda: main)
    (tmp_path / "unfinished").mkdir()
    draw(run, tmp_path)
    assert met == [2, 2, ("parts", False), ("drawn", False), ("written", main)]


def test_what_is_not_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the workdir of a run"):
        ddpm_jax.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        ddpm_jax.load(tmp_path)


def test_nothing_is_compiled_twice(run):
    """Another seed, label or scale runs the program of the first call."""
    model = ddpm_jax.load(run)
    arguments = {"steps": 3, "label": 1, "guidance": 2.0}
    model.sample(jax.random.key(0), 4, **arguments)
    with jax.log_compiles(), _no_compilation():
        other = {"steps": 3, "label": 7, "guidance": 3.5}
        model.sample(jax.random.key(1), 4, **other)


def _no_compilation():
    import contextlib
    import logging

    @contextlib.contextmanager
    def watch():
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())
        logger = logging.getLogger("jax")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
        assert not [line for line in lines if line.startswith("Compiling")], lines

    return watch()

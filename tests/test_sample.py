"""sample.py as a person starts it: what it writes, and its one-line refusals."""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import ddpm_jax
from ddpm_jax.command import read_config
from ddpm_jax.training import loop

ROOT = pathlib.Path(__file__).parent.parent


def script():
    spec = importlib.util.spec_from_file_location("sample", ROOT / "sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLE = script()


def short(classes):
    smoke = read_config(ROOT / "configs" / "smoke.py")
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, num_classes=classes),
        diffusion=dataclasses.replace(
            smoke.diffusion, label_dropout=0.1 if classes else 0.0
        ),
        train=dataclasses.replace(smoke.train, num_steps=2),
        sample=dataclasses.replace(smoke.sample, num=4, steps=2),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    loop.run(short(10), workdir)
    return workdir


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unconditional")
    loop.run(short(None), workdir)
    return workdir


def draw(workdir, out, **options):
    options = {"num": 6, "batch_size": 4, "steps": 5, **options}
    SAMPLE.main(SAMPLE.Options(workdir=workdir, out=out, **options))
    return out


def test_everything_that_can_be_written(run, tmp_path):
    draw(run, tmp_path, label=3, png=True, npz=True, strip=True, gif=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"grid.png", "samples.npz", "strip.png", "chain.gif", "00005.png"}
    samples = np.load(tmp_path / "samples.npz")["images"]
    assert samples.shape == (6, 8, 8, 1) and samples.dtype == np.uint8
    alone = np.asarray(Image.open(tmp_path / "00004.png"))
    np.testing.assert_array_equal(alone, samples[4, :, :, 0])
    grid = Image.open(tmp_path / "grid.png")
    assert grid.info["seed"] == "0" and grid.info["label"] == "3"
    assert Image.open(tmp_path / "chain.gif").n_frames > 1


def test_the_same_seed_gives_the_same_images_whatever_the_batch(run, tmp_path):
    drawn = [
        np.load(
            draw(run, tmp_path / str(size), npz=True, batch_size=size) / "samples.npz"
        )
        for size in (2, 6)
    ]
    a, b = (x["images"].astype(int) for x in drawn)
    assert np.abs(a - b).max() <= 1  # one grey level, where rounding falls on a half
    assert np.mean(a != b) < 0.01
    other = np.load(draw(run, tmp_path / "other", npz=True, seed=1) / "samples.npz")
    assert np.mean(other["images"] != b) > 0.5


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver_pp", "heun"])
def test_every_sampler_draws(run, tmp_path, sampler):
    draw(run, tmp_path, sampler=sampler, label=1, guidance=2.0)
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"label": 11}, r"a label must lie in 0\.\.9; got 11"),
        ({"steps": 21}, r"must lie in 1\.\.20; got 21"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"sampler": "ddim", "eta": 1.5}, "eta"),
        ({"eta": 0.5}, "eta belongs to the sampler ddim"),
        ({"guidance": 2.0}, "guidance strengthens a label"),
        ({"num": 0}, "--num and --batch-size must be at least 1"),
        ({"spacing": "even"}, "spacing must be one of"),
    ],
)
def test_refusals_name_the_rule(run, tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        draw(run, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "grid.png").exists()


@pytest.mark.parametrize("options", [{"label": 3}, {"label": 3, "guidance": 2.0}])
def test_a_label_needs_a_conditional_model(unconditional, tmp_path, options):
    with pytest.raises(ValueError, match="no labels"):
        draw(unconditional, tmp_path, **options)


def test_guidance_needs_a_conditional_model(unconditional, tmp_path):
    with pytest.raises(ValueError, match="class-conditional"):
        draw(unconditional, tmp_path, guidance=2.0)


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

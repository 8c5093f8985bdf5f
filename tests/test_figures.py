"""Figures show what the tables and the samplers say, as PNGs of a sane size."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddpm_jax import build
from ddpm_jax.command import read_config
from ddpm_jax.data import load_digits
from ddpm_jax.diffusion.samplers import sample
from ddpm_jax.figures import (
    __main__,
    forward,
    guidance,
    img2img,
    inpainting,
    interpolation,
    sampling,
    schedules,
    steps,
    style,
)
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, pick
from ddpm_jax.model import Model

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def subject():
    """One level of the smoke network, untrained, with the digits."""
    config = read_config(ROOT / "configs" / "smoke.py")
    small = {"multipliers": (1,), "attention_resolutions": ()}
    small = dataclasses.replace(config.network, **small)
    config = dataclasses.replace(config, network=small)
    network = build.make_network(config)
    initial = jax.jit(lambda key: build.init_params(key, network, config.data))
    model = Model(
        params=initial(jax.random.key(0)),
        schedule=build.make_schedule(config.diffusion.schedule),
        config=config,
        network=network,
        step=0,
    )
    train, test = load_digits("train"), load_digits("test")
    return Subject(model=model, train=train, test=test, seed=3, num=8)


def written(figure, path):
    """The figure as it is written, (h, w, 3) in 0..255."""
    style.save(figure, path)
    assert path.stat().st_size < 150_000
    pixels = np.asarray(Image.open(path))
    assert pixels.shape[1] == round(style.WIDTH * style.DPI)
    assert 0.1 < pixels.shape[0] / pixels.shape[1] < 1.5
    return pixels


@pytest.mark.filterwarnings("ignore:x_T still holds")  # 200 steps are a picture
def test_the_schedules_are_the_closed_forms(tmp_path):
    figure = schedules.draw(200)
    signal, snr = figure.axes
    lines = {line.get_label(): line for line in signal.lines}
    # Betas of one's own have no defaults to draw.
    assert list(lines) == [name for name in build.BETAS if name != "explicit"]
    u = np.arange(1, 201) / 200
    angle = (u + 0.008) / 1.008 * np.pi / 2
    cosine = np.cos(angle) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(lines["cosine"].get_xdata(), u)
    # The last beta is capped.
    np.testing.assert_allclose(lines["cosine"].get_ydata()[:-1], cosine[:-1], 1e-5)
    np.testing.assert_allclose(lines["jsd"].get_ydata(), 1 - u, atol=1e-6)
    np.testing.assert_allclose(lines["constant"].get_ydata(), 0.98 ** (200 * u), 1e-5)
    for a, b in zip(signal.lines, snr.lines, strict=True):
        alpha_bar = np.asarray(a.get_ydata(), np.float64)[:-1]
        log_snr = np.log(alpha_bar / (1 - alpha_bar))
        np.testing.assert_allclose(b.get_ydata()[:-1], log_snr, atol=2e-3)
    assert np.any(written(figure, tmp_path / "schedules.png") < 128)


def test_the_forward_chain_keeps_its_share_of_the_image(subject, tmp_path):
    image = jnp.full((1, 8, 8, 1), 0.5)
    betas = np.full(10, 0.1)
    shown = forward.noised(betas, image, jnp.zeros_like(image), np.array([0, 1, 5, 10]))
    expected = 0.5 * 0.9 ** (np.array([0, 1, 5, 10]) / 2) * 127.5 + 127.5
    np.testing.assert_allclose(shown[:, 0, 0, 0], expected, atol=0.51)
    figure = forward.draw(subject)
    assert len(figure.axes[0].images) == 2 * 11
    first = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(first[..., :1], pick(subject, 1).images[0])
    written(figure, tmp_path / "forward.png")


def test_the_sampling_figure_shows_what_sample_draws(subject, tmp_path):
    model = subject.model
    key = build.image_keys(subject.key, 0, 2)
    denoise, sampler = model.denoiser([1, 2]), build.make_sampler("ddpm")
    shape, shown = (2, 8, 8, 1), [19, 11, 4, 0]
    walked = sampling.walk(key, denoise, model.schedule, sampler, shape, shown)
    drawn = sample(key, denoise, model.schedule, shape, sampler=sampler)
    # The last step returns the x_0 that it predicted.
    np.testing.assert_allclose(walked[-1][1], drawn, atol=1e-5)
    assert sampling.shown_indices(1000)[0] == 999
    assert sampling.shown_indices(5) == [4, 3, 2, 1, 0]
    written(sampling.draw(subject), tmp_path / "sampling.png")


@pytest.mark.parametrize("module", [guidance, interpolation, img2img])
def test_the_galleries_of_a_run_are_written(module, subject, tmp_path, monkeypatch):
    if hasattr(module, "DEPTHS"):  # each is a program to compile
        monkeypatch.setattr(module, "DEPTHS", (0.5,))
    written(module.draw(subject), tmp_path / "figure.png")


def test_what_is_given_stays_in_an_inpainted_picture(subject, tmp_path):
    masks = inpainting.kept_parts(8, 8)
    assert [int(mask.sum()) for mask in masks.values()] == [32, 32, 32, 48]
    figure = inpainting.draw(subject)
    written(figure, tmp_path / "inpainting.png")
    pictures = figure.axes[0].images
    for row, mask in enumerate(masks.values()):
        real, _, *samples = [
            np.asarray(p.get_array(), int) for p in pictures[8 * row : 8 * row + 8]
        ]
        for each in samples:
            np.testing.assert_allclose(each * mask, real * mask, atol=1)


def test_a_gallery_has_its_pictures_in_their_places(tmp_path):
    levels = np.array([[10, 60, 110], [160, 210, 250]], np.uint8)
    cells = np.broadcast_to(levels[..., None, None, None], (2, 3, 4, 4, 1))
    figure = gallery(cells, columns="abc", rows=["", ""], column_breaks=(1,))
    pixels = written(figure, tmp_path / "gallery.png")
    axes, height = figure.axes[0], len(pixels)
    for i in range(2):
        for j, x in enumerate([0, 1.25, 2.25]):
            # The display transform works in the figure's own dots per inch.
            place = axes.transData.transform((x + 0.4, i + 0.4))
            right, up = place * style.DPI / figure.dpi
            assert pixels[height - int(up), int(right), 0] == levels[i, j]


def test_distances_to_the_nearest_image():
    real = np.array([[[[0]]], [[[255]]]], np.uint8)
    images = np.array([[[[0]]], [[[51]]]], np.uint8)
    np.testing.assert_allclose(steps.nearest(images, real), [0, 0.4], atol=1e-3)
    np.testing.assert_allclose(steps.nearest(images, real, rank=1), [2, 1.6], atol=1e-3)


def test_heun_is_charged_for_both_calls_and_no_chain_is_overlong(subject, monkeypatch):
    monkeypatch.setattr(steps, "CALLS", (5, 50))
    ((calls, distance),) = steps.curve(subject, "heun")  # 25 steps of 20 there are not
    assert calls == 5 and distance > 0


def test_an_unknown_figure_is_one_clear_line():
    rule = "a figure must be all or one of schedules, forward, .*; got 'forwards'"
    with pytest.raises(ValueError, match=rule):
        __main__.main(__main__.Options(name="forwards"))


def test_a_missing_matplotlib_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rule = r"figures need matplotlib: pip install 'ddpm_jax\[plots\]'"
    with pytest.raises(ImportError, match=rule):
        __main__.main(__main__.Options(name="schedules"))


def test_the_command_writes_the_figure_named(tmp_path, capsys):
    __main__.main(__main__.Options(name="schedules", out=tmp_path / "new"))
    assert (tmp_path / "new" / "schedules.png").stat().st_size > 10_000
    assert "schedules.png" in capsys.readouterr().out

"""Figures show what the tables and the samplers say, as PNGs of a sane size."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from toy import toy_model

from ddpm_jax import build
from ddpm_jax.config import DataConfig
from ddpm_jax.data import load_digits, to_float
from ddpm_jax.diffusion import editing
from ddpm_jax.diffusion.noise import draw_noise, fold_in
from ddpm_jax.diffusion.samplers import sample
from ddpm_jax.diffusion.schedules import cosine_betas, linear_betas
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import collect, extract
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.figures import (
    __main__,
    bound,
    forward,
    guidance,
    img2img,
    inpainting,
    interpolation,
    parametrisations,
    sampling,
    schedules,
    steps,
    style,
    variance,
)
from ddpm_jax.figures import subject as subjects
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, pick
from ddpm_jax.images import to_uint8

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def subject():
    """A toy model, with the digits."""
    model = toy_model(size=8, classes=10, num_steps=20)
    train, test = load_digits("train"), load_digits("test")
    return Subject(model=model, train=train, test=test, seed=3, num=8)


def shown(figure, rows, columns):
    """(pictures (rows, columns, h, w), column titles, row labels) of a gallery."""
    axes = figure.axes[0]
    pictures = np.stack([np.asarray(x.get_array())[..., 0] for x in axes.images])
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == rows + columns
    pictures = pictures.reshape(rows, columns, *pictures.shape[1:]).astype(int)
    return pictures, texts[:columns], texts[columns:]


def same(pictures, x):
    """Holds that the pictures are these floats, to a grey level."""
    expected = to_uint8(np.asarray(x))[..., 0].astype(int)
    assert pictures.shape == expected.shape and np.abs(pictures - expected).max() <= 1


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
    noised = forward.noised(
        betas, image, jnp.zeros_like(image), np.array([0, 1, 5, 10])
    )
    expected = 0.5 * 0.9 ** (np.array([0, 1, 5, 10]) / 2) * 127.5 + 127.5
    np.testing.assert_allclose(noised[:, 0, 0, 0], expected, atol=0.51)
    figure = forward.draw(subject)
    pictures, titles, names = shown(figure, 2, 11)
    real = pick(subject, 1).images
    noise = np.asarray(
        jax.random.normal(jax.random.fold_in(subject.key, 1), real.shape)
    )
    x0 = real / 127.5 - 1
    for row, betas in enumerate((linear_betas(1000), cosine_betas(1000))):
        np.testing.assert_array_equal(pictures[row, 0], real[0, ..., 0])
        bars = np.cumprod(1 - betas)[np.arange(99, 1000, 100)]
        for picture, bar in zip(pictures[row, 1:], bars, strict=True):
            same(picture[None], np.sqrt(bar) * x0 + np.sqrt(1 - bar) * noise)
    assert titles == [str(100 * i) for i in range(11)]
    assert names == ["linear", "cosine"]
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


def test_the_sampling_figure_has_x_t_over_the_x_0_seen_in_it(subject):
    model = subject.model
    figure = sampling.draw(subject)
    indices = sampling.shown_indices(20)
    pictures, titles, names = shown(figure, 4, len(indices))
    assert titles == [str(i) for i in indices]
    labels, digits = np.array([6, 0]), subject.train.label_names
    kinds = ("$x_t$", "predicted $x_0$")
    assert names == [f"“{digits[label]}”, {kind}" for label in labels for kind in kinds]
    keys = build.image_keys(subject.key, 0, 2)
    start = draw_noise(fold_in(keys, 20), jax.ShapeDtypeStruct((2, 8, 8, 1), "float32"))
    after = {20: start} | dict(model.sample_iter(subject.key, 2, label=labels))
    denoise = jax.jit(model.denoiser(labels))
    for column, i in enumerate(indices):
        x = after[i + 1]
        same(pictures[::2, column], x)
        same(pictures[1::2, column], denoise(model.schedule, x, jnp.asarray(i)).x0)


def test_a_row_of_guidance_is_one_noise_and_label_under_every_scale(subject, tmp_path):
    figure = guidance.draw(subject)
    pictures, titles, names = shown(figure, 4, 8)
    labels = np.array([5, 8, 1, 4])
    assert names == [f"“{subject.train.label_names[i]}”" for i in labels]
    assert titles == ["0", "0.5", "1", "1.5", "2", "3", "5", "8"]
    how = {"sampler": "ddim", "steps": 20, "label": labels}
    for column, title in enumerate(titles):
        x = subject.model.sample(subject.key, 4, guidance=float(title), **how)
        same(pictures[:, column], x)
    assert np.abs(pictures[:, 0] - pictures[:, 7]).max() > 20
    written(figure, tmp_path / "guidance.png")


def test_a_row_of_image_to_image_starts_ever_earlier(subject, tmp_path):
    figure = img2img.draw(subject)
    pictures, titles, _ = shown(figure, 3, 9)
    images = pick(subject, 3).images
    np.testing.assert_array_equal(pictures[:, 0], images[..., 0])
    x0 = to_float(jnp.asarray(images))
    assert titles == ["real", *(str(2 * i - 1) for i in range(1, 9))]
    keys = build.image_keys(subject.key, 0, 3)
    denoise, chain = subject.model.denoiser(), subject.model.schedule
    for column in (1, 4, 8):
        index = int(titles[column])
        x = editing.image_to_image(keys, denoise, chain, x0, start_index=index)
        same(pictures[:, column], x)
    written(figure, tmp_path / "img2img.png")


def test_between_two_images_stand_the_mixed_ones(subject, tmp_path):
    figure = interpolation.draw(subject)
    pictures, titles, names = shown(figure, 3, 9)
    images = pick(subject, 2).images
    for row in pictures:
        np.testing.assert_array_equal(row[[0, -1]], images[..., 0])
    assert titles == ["real", "0", "1/6", "1/3", "1/2", "2/3", "5/6", "1", "real"]
    assert [name.split("\n")[0] for name in names] == [*["Ho et al.,"] * 2, "DDIM,"]
    first, second = to_float(jnp.asarray(images))
    weights, model = jnp.arange(7) / 6, subject.model
    mix = (first, second, weights)
    for row, index in enumerate((2, 5)):
        assert names[row].endswith(f"= {index}")
        x = editing.interpolate(
            subject.key, model.denoiser(), model.schedule, *mix, start_index=index
        )
        same(pictures[row, 1:-1], x)
    free = model.denoiser(clip=False)
    same(pictures[2, 1:-1], editing.interpolate_latents(free, model.schedule, *mix))
    written(figure, tmp_path / "interpolation.png")


def test_the_bound_is_drawn_term_by_term(subject, tmp_path):
    figure = bound.draw(subject)
    each, running = figure.axes
    x0 = to_float(jnp.asarray(subject.test.images[:8]))
    labels = subject.test.labels[:8]
    told = subject.model.bits_per_dim(subject.key, x0, label=labels)
    terms = np.asarray(told.terms).mean(0)
    line, dot = each.lines
    np.testing.assert_allclose(line.get_ydata(), terms[1:], rtol=1e-3)
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 20))
    np.testing.assert_allclose(dot.get_ydata(), terms[:1], rtol=1e-3)
    line, dot = running.lines
    np.testing.assert_allclose(line.get_ydata(), np.cumsum(terms), rtol=1e-3)
    np.testing.assert_allclose(dot.get_ydata(), terms[:1], rtol=1e-3)
    total = float(np.mean(told.total))
    found = running.get_title(loc="left").split(": ")[1].split(" ")[0]
    assert abs(float(found) - total) <= 0.011
    written(figure, tmp_path / "bound.png")


def test_the_targets_along_the_chain_are_what_the_network_must_say(subject, tmp_path):
    figure = parametrisations.draw(subject)
    pictures, titles, names = shown(figure, 4, 10)
    steps = np.array([0, 2, 4, 6, 8, 11, 13, 15, 17, 19])
    assert titles == [str(step) for step in steps]
    assert [name.split()[-1] for name in names[1:]] == ["$\\epsilon$", "$x_0$", "$v$"]
    x0 = pick(subject, 1).images / 127.5 - 1
    noise = jax.random.normal(jax.random.fold_in(subject.key, 1), x0.shape)
    noise, bars = np.asarray(noise), np.asarray(subject.model.schedule.alphas_cumprod)
    signal, sigma = (np.sqrt(x[steps, None, None, None]) for x in (bars, 1 - bars))
    same(pictures[0], signal * x0 + sigma * noise)
    same(pictures[1], np.broadcast_to(noise, (10, 8, 8, 1)))
    same(pictures[2], np.broadcast_to(x0, (10, 8, 8, 1)))
    same(pictures[3], signal * noise - sigma * x0)
    written(figure, tmp_path / "parametrisations.png")


@pytest.mark.parametrize(("rule", "share"), [("fixed_small", 0), ("fixed_large", 1)])
def test_a_fixed_variance_is_one_of_the_bounds(subject, rule, share):
    model = toy_model(size=8, classes=10, num_steps=20, variance=rule)
    bounds, between = variance.draw(dataclasses.replace(subject, model=model)).axes
    high, low, own = (np.asarray(line.get_ydata()) for line in bounds.lines)
    steps = bounds.lines[0].get_xdata()
    assert steps[:5].tolist() == [1, 2, 3, 4, 5] and steps[-1] == 19
    np.testing.assert_allclose(high, model.schedule.betas[steps], rtol=1e-5)
    np.testing.assert_allclose(low, model.schedule.posterior_variance[steps], 1e-5)
    np.testing.assert_allclose(own, (low, high)[share], rtol=1e-4)
    line = between.lines[0]
    np.testing.assert_allclose(line.get_ydata(), share, atol=1e-3)
    # Later the bounds are one number to float32.
    assert line.get_xdata()[0] == 1 and line.get_xdata()[-1] < 19


def test_a_learned_variance_is_drawn_as_its_share_of_the_way(subject, tmp_path):
    model = toy_model(size=8, classes=10, num_steps=20, variance="learned_range")
    figure = variance.draw(dataclasses.replace(subject, model=model))
    x0 = to_float(jnp.asarray(subject.test.images[:8]))
    line = figure.axes[1].lines[0]
    for t in (1, 2, 4):
        noise = jax.random.normal(jax.random.fold_in(subject.key, t), x0.shape)
        xt = q_sample(model.schedule, x0, t, noise)
        v = model.denoise(xt, jnp.full(8, t), jnp.asarray(subject.test.labels[:8]))
        expected = (np.asarray(v)[..., 1] + 1) / 2  # eq. 15 of Improved DDPM
        np.testing.assert_allclose(line.get_ydata()[t - 1], expected.mean(), atol=1e-3)
    assert np.ptp(line.get_ydata()) > 0.01
    written(figure, tmp_path / "variance.png")


def test_a_line_of_steps_is_the_distance_at_its_price(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "CALLS", (5, 10))
    figure = steps.draw(subject)
    lines = {line.get_label(): line for line in figure.axes[0].lines[:5]}
    assert list(lines) == list(steps.NAMES.values())
    assert set(steps.NAMES) == set(build.SAMPLERS)
    network, _ = classifier.find(DataConfig())

    def gaussian(images):
        rows = collect(extract(network, images))["features"].astype(float)
        return rows.mean(0), np.cov(rows, rowvar=False)

    def distance(images):
        return frechet_distance(*gaussian(images), *gaussian(subject.train.images))

    held_out = steps.held_out(subject)
    real = {image.tobytes() for image in subject.test.images}
    assert len(held_out) == 8 and {image.tobytes() for image in held_out} <= real
    level = figure.axes[0].lines[5].get_ydata()
    np.testing.assert_allclose(level, distance(held_out), rtol=1e-4)
    assert figure.axes[0].get_ylabel() == "digits-FD of 8 samples"
    for name, calls in (("ddpm", [5, 10]), ("heun", [5, 9])):
        line = lines[steps.NAMES[name]]
        assert line.get_xdata().tolist() == calls
        for count, found in zip(calls, line.get_ydata(), strict=True):
            number = (count + 1) // 2 if name == "heun" else count
            x = subject.model.sample(
                subject.key, 8, sampler=name, steps=number, label=np.arange(8)
            )
            expected = distance(to_uint8(x))
            np.testing.assert_allclose(found, expected, rtol=1e-2)
    written(figure, tmp_path / "steps.png")
    x = subject.model.sample(
        subject.key, 8, sampler="unipc", steps=4, label=np.arange(8)
    )
    images = steps.drawn(subject, "unipc", 4).astype(int)
    assert np.abs(images - to_uint8(x)).max() <= 1


def test_a_run_is_shown_with_the_images_of_its_splits(subject, monkeypatch):
    read = []

    def load(workdir, *, weights):
        read.append((workdir, weights))
        return subject.model

    monkeypatch.setattr(subjects, "load", load)
    opened = subjects.open_subject("run", seed=5, num=9)
    subjects.open_subject("run", seed=5, num=9, weights="raw")
    assert read == [("run", "ema"), ("run", "raw")]
    assert (opened.seed, opened.num) == (5, 9) and opened.model is subject.model
    np.testing.assert_array_equal(opened.train.images, subject.train.images)
    np.testing.assert_array_equal(opened.test.images, subject.test.images)
    with pytest.raises(ValueError, match="--num must be at least 2; got 1"):
        subjects.open_subject("run", seed=5, num=1)


def test_what_is_picked_is_of_different_classes(subject):
    picked = pick(subject, 10)
    assert sorted(picked.labels) == list(range(10))
    for image, label in zip(picked.images, picked.labels, strict=True):
        (place,) = np.nonzero((subject.test.images == image).all((1, 2, 3)))
        assert subject.test.labels[place[0]] == label


def test_what_is_given_stays_in_an_inpainted_picture(subject, tmp_path):
    masks = inpainting.kept_parts(8, 8)
    assert [int(mask.sum()) for mask in masks.values()] == [32, 32, 32, 48]
    hidden = {
        "lower half": np.s_[4:],
        "right half": np.s_[:, 4:],
        "upper half": np.s_[:4],
        "centre": np.s_[2:6, 2:6],
    }
    for name, part in hidden.items():
        assert not masks[name][part].any(), name
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


def test_heun_is_charged_for_both_calls_and_no_chain_is_overlong(subject, monkeypatch):
    monkeypatch.setattr(steps, "CALLS", (5, 50))
    judge = steps.Judge(subject)
    ((calls, distance),) = steps.curve(subject, judge, "heun")  # 25 of 20: none
    assert calls == 5 and distance > 0


def test_steps_of_a_set_without_a_classifier_are_one_clear_line(subject, monkeypatch):
    monkeypatch.setattr(steps.classifier, "SHIPPED", {})
    monkeypatch.setenv("DDPM_JAX_CACHE", "nowhere")
    with pytest.raises(ValueError, match="no classifier of digits yet"):
        steps.draw(subject)


def test_an_unknown_figure_is_one_clear_line():
    rule = "a figure must be all or one of schedules, forward, .*; got 'forwards'"
    with pytest.raises(ValueError, match=rule):
        __main__.main(__main__.Options(name="forwards"))


def test_a_missing_matplotlib_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rule = r"figures need matplotlib: pip install 'ddpm_jax\[plots\]'"
    with pytest.raises(ImportError, match=rule):
        __main__.main(__main__.Options(name="schedules"))


def test_the_command_hands_on_what_it_is_told(subject, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        __main__, "open_subject", lambda run, **how: asked.append((run, how)) or subject
    )
    how = {"seed": 4, "num": 5, "weights": "raw"}
    run = pathlib.Path("run")
    options = __main__.Options(name="forward", workdir=run, out=tmp_path, **how)
    __main__.main(options)
    assert asked == [(run, how)]


def test_the_command_writes_the_figure_named(tmp_path, capsys):
    __main__.main(__main__.Options(name="schedules", out=tmp_path / "new"))
    assert (tmp_path / "new" / "schedules.png").stat().st_size > 10_000
    assert "schedules.png" in capsys.readouterr().out

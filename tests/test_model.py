"""A loaded model is a value: jit, vmap and the progress bar leave it as it is."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import build
from ddpm_jax.config import ScheduleConfig
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.samplers import ddim, dpm_solver_pp, heun, unipc
from ddpm_jax.diffusion.samplers import loop as sampling
from ddpm_jax.training import checkpoints


@pytest.fixture(scope="module")
def workdir(small_run):
    return small_run


@pytest.fixture(scope="module")
def model(workdir):
    return ddpm_jax.load(workdir)


def test_it_says_what_it_is(model):
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    for said in (repr(model), model._repr_html_()):
        for fact in ("8x8x1", "10 classes", f"{count:,} parameters", "2 updates"):
            assert fact in said


def test_processes_read_the_step_that_they_agree_on(workdir, model):
    found = []

    def agree(step):
        found.append(step)
        return 1

    older = ddpm_jax.load(workdir, agree=agree)
    assert found[0] == model.step == 2 and older.step == 1
    a, b = jax.tree.leaves(older.params), jax.tree.leaves(model.params)
    assert any((x != y).any() for x, y in zip(a, b, strict=True))


def test_a_step_that_is_deleted_while_it_is_read_gives_way_to_the_next(
    workdir, tmp_path, monkeypatch
):
    shutil.copytree(workdir, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints"
    (place / "2").rename(tmp_path / "later")
    restore = checkpoints.restore_ema

    def goes_on(manager, step, target):
        if step == 1:  # the run saves the next, and keeps one
            (tmp_path / "later").rename(place / "2")
            shutil.rmtree(place / "1")
        return restore(manager, step, target)

    monkeypatch.setattr(checkpoints, "restore_ema", goes_on)
    assert ddpm_jax.load(tmp_path / "run").step == 2
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 1"):
        ddpm_jax.load(tmp_path / "run", step=1)


def test_a_step_that_cannot_be_read_ends_the_look(workdir, monkeypatch):
    def fails(manager, step, target):
        raise checkpoints.CheckpointError(f"step {step} cannot be read")

    monkeypatch.setattr(checkpoints, "restore_ema", fails)
    with pytest.raises(checkpoints.CheckpointError, match="step 2 cannot be read"):
        ddpm_jax.load(workdir)


@pytest.mark.parametrize(
    "lost", ["_CHECKPOINT_METADATA", "sha256.json", "ema/_METADATA"]
)
def test_older_weights_are_never_read_in_silence(workdir, tmp_path, lost):
    shutil.copytree(workdir, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "2"
    (place / lost).unlink()
    with pytest.warns(UserWarning, match=f"2 is damaged .{lost} is missing"):
        assert ddpm_jax.load(tmp_path / "run").step == 1


@pytest.mark.parametrize(
    ("label", "line"),
    [
        (1.7, "a label must be a whole number; got 1.7"),
        (np.array([1.0, 2.0]), "a label must be a whole number"),
        (True, "a label must be a whole number; got True"),
        ([1, 2, 3], r"one for each of the 2 images; got labels of shape \(3,\)"),
        (np.zeros((2, 1), int), r"the 2 images; got labels of shape \(2, 1\)"),
        ([1, 10], r"a label must lie in 0\.\.9; got 10"),
        (-1, r"a label must lie in 0\.\.9; got -1"),
        (2**70, "a label must"),
    ],
)
def test_a_label_is_a_class_for_each_image(model, label, line):
    with pytest.raises(ValueError, match=line):
        model.sample(jax.random.key(0), 2, steps=3, label=label)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e39, np.array([1.0, np.nan])])
def test_guidance_that_is_no_number_is_refused_before_a_step(model, scale):
    with pytest.raises(ValueError, match="guidance must be finite in float32; got"):
        model.sample_iter(jax.random.key(0), 2, steps=3, label=1, guidance=scale)


def test_a_traced_label_is_a_whole_number_too(model):
    def draw(label):
        return model.sample(jax.random.key(0), 2, steps=3, label=label)

    with pytest.raises(ValueError, match="a label must be a whole number"):
        jax.eval_shape(draw, 1.0)
    with pytest.raises(ValueError, match=r"the 2 images; got labels of shape \(3,\)"):
        jax.eval_shape(draw, np.arange(3))


def test_a_draw_may_be_divided_over_the_devices(model):
    spread = model.over_local_devices()
    key = jax.random.key(4)
    alone = model.sample(key, 16, steps=3, label=2, guidance=2.0)
    divided = spread.sample(key, 16, steps=3, label=2, guidance=2.0)
    assert len(divided.sharding.device_set) == jax.local_device_count() == 8
    np.testing.assert_allclose(divided, alone, atol=1e-5)
    odd = spread.sample(key, 3, steps=3, label=2)  # does not divide; drawn all the same
    np.testing.assert_allclose(odd, model.sample(key, 3, steps=3, label=2), atol=1e-5)


@pytest.mark.parametrize("spacing", ["logsnr", "karras"])
def test_a_solver_may_step_between_the_trained_steps(model, spacing):
    x = model.sample(
        jax.random.key(5), 2, sampler=dpm_solver_pp(), steps=6, spacing=spacing, label=1
    )
    assert np.isfinite(x).all()
    with pytest.raises(ValueError, match=r"must lie in 1\.\.20; got 21"):
        model.sample(jax.random.key(5), 2, steps=21, spacing=spacing, label=1)


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [(None, "uniform"), (ddim(), "uniform"), (unipc(), "logsnr"), (heun(), "heun")],
)
def test_a_sampler_has_a_spacing_of_its_own(model, sampler, spacing):
    # The last convolution of an untrained network is 0, and so is all that it predicts.
    params = jax.tree.map(lambda x: x + 0.05, model.params)
    model = dataclasses.replace(model, params=params)
    key, how = jax.random.key(5), {"sampler": sampler, "steps": 4, "label": 1}
    own = model.sample(key, 2, **how)
    np.testing.assert_array_equal(own, model.sample(key, 2, spacing=spacing, **how))
    other = model.sample(key, 2, spacing="trailing", **how)
    assert np.abs(own - other).max() > 1e-3


def test_where_log_snr_is_infinite_a_solver_keeps_to_trained_steps():
    config = ScheduleConfig(num_steps=20, zero_terminal_snr=True)
    for sampler in (dpm_solver_pp(), unipc()):
        chain = build.make_schedule(config, steps=4, sampler=sampler)
        np.testing.assert_array_equal(chain.timesteps, [0, 6, 13, 19])


def test_the_chain_is_cut_where_it_is_told(model):
    config = ScheduleConfig(kind="cosine")
    for spacing, cut in (("logsnr", 5.1), ("karras", 5.1), ("heun", np.log(80))):
        for told, reached in ((None, cut), (-2.0, 2.0)):
            chain = build.make_schedule(
                config, steps=5, spacing=spacing, lambda_min=told
            )
            sigma = chain.sqrt_recipm1_alphas_cumprod[-1]
            np.testing.assert_allclose(np.log(sigma), reached, rtol=1e-4)
    key, how = jax.random.key(5), {"sampler": dpm_solver_pp(), "steps": 4, "label": 1}
    cut = model.sample(key, 2, lambda_min=0.5, **how)
    assert np.abs(cut - model.sample(key, 2, **how)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": "logsnr"}, "spacing=logsnr spaces so many steps; got none"),
        ({"spacing": "logsnrr"}, "spacing must be one of .*; got 'logsnrr'"),
        ({"lambda_min": -5.0}, "lambda_min=-5.0 spaces so many steps; got none"),
        ({"lambda_min": -5.0, "steps": 4}, "-5.0 with 'uniform'"),
        ({"lambda_min": 9.0, "steps": 4, "spacing": "karras"}, "got 9.0"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(model, options, message):
    key = jax.random.key(0)
    for draw in (model.sample, model.sample_iter):
        with pytest.raises(ValueError, match=message):
            draw(key, 1, label=3, **options)


@pytest.mark.parametrize("spacing", ["uniform", "logsnr"])
def test_a_schedule_of_ones_own_is_the_one_that_is_respaced(model, spacing):
    config, own = model.config.diffusion.schedule, ScheduleConfig(kind="cosine")
    how = {"steps": 4, "spacing": spacing}
    swapped = dataclasses.replace(model, schedule=build.make_schedule(own))
    chain = swapped.walk(**how)[1]
    expected = build.make_schedule(own, **how)
    for name in ("alphas_cumprod", "timesteps"):
        found, wanted = getattr(chain, name), getattr(expected, name)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        assert found.dtype == wanted.dtype
    # The steps that a respaced chain tells the network stay those of the training.
    kept = np.array([1, 4, 5, 9, 13, 19])
    betas = build.make_betas(config)
    short = schedules.make_schedule(betas, timesteps=kept)
    chain = dataclasses.replace(model, schedule=short).walk(steps=3)[1]
    np.testing.assert_array_equal(chain.timesteps, kept[[0, 2, 5]])
    np.testing.assert_allclose(
        chain.alphas_cumprod, np.cumprod(1 - betas)[kept[[0, 2, 5]]], rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"must lie in 1\.\.6; got 7"):
        dataclasses.replace(model, schedule=short).sample(0, 1, steps=7, label=1)
    for name in ("alphas_cumprod", "timesteps"):  # its own is respaced in float64
        found = getattr(model.walk(**how)[1], name)
        wanted = getattr(build.make_schedule(config, **how), name)
        np.testing.assert_array_equal(found, wanted)


def test_it_is_a_pytree_that_jit_and_vmap_take(model):
    def draw(model, key, label):
        return model.sample(key, 2, steps=3, label=label, guidance=1.5)

    key = jax.random.key(0)
    plain = draw(model, key, 4)
    np.testing.assert_allclose(jax.jit(draw)(model, key, 4), plain, atol=1e-5)
    keys, labels = jax.random.split(key, 3), np.array([1, 2, 3])
    many = jax.vmap(draw, in_axes=(None, 0, 0))(model, keys, labels)
    np.testing.assert_allclose(many[2], draw(model, keys[2], 3), atol=1e-5)


def test_the_bar_changes_nothing(model):
    key = jax.random.key(1)
    quiet = model.sample(key, 2, label=1, progress=False)
    np.testing.assert_array_equal(model.sample(key, 2, label=1, progress=True), quiet)


@pytest.mark.parametrize("make", [ddim, heun])
def test_two_samplers_of_the_same_kind_are_one_program(model, make):
    key = jax.random.key(2)
    model.sample(key, 2, sampler=make(), steps=4, label=1)
    before = sampling._walk._cache_size()
    model.sample(key, 2, sampler=make(), steps=4, label=2)
    assert sampling._walk._cache_size() == before


def test_denoise_is_the_network(model):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    output = model.denoise(x, np.array([3, 4]), np.array([0, 1]))
    expected = model.network.apply(
        {"params": model.params}, x, np.array([3, 4]), np.array([0, 1])
    )
    np.testing.assert_array_equal(output, expected)


def test_guidance_one_is_the_conditional_model(model):
    key = jax.random.key(3)
    plain = model.sample(key, 2, steps=4, label=5)
    guided = model.sample(key, 2, steps=4, label=5, guidance=1.0)
    np.testing.assert_allclose(guided, plain, atol=1e-5)


IMAGES = np.zeros((2, 8, 8, 1), np.float32)
HOW = {"steps": 2, "label": 1}


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m: m.sample(0, 2, sampler="ddmi", **HOW), r"one of ddpm, .*got 'ddmi'"),
        (lambda m: m.sample(0, 2, sampler=ddim, **HOW), r"sampler must be .*: call it"),
        (lambda m: m.sample_iter(0, 2, sampler=ddim, **HOW), r".*: call it"),
        (lambda m: m.sample("0", 2, **HOW), r"a key must be .*or a seed.*got '0'"),
        (lambda m: m.sample(2**70, 2, **HOW), r"a key must be .*of 64 bits"),
        (lambda m: m.sample(jax.random.split(jax.random.key(0)), 2, **HOW), r"one key"),
        (lambda m: m.sample(0, "2", **HOW), r"number of images must be .*got '2'"),
        (
            lambda m: m.sample(0, 2, guidance=[1.0, 2.0, 3.0], **HOW),
            r"2 images.*\(3,\)",
        ),
        (
            lambda m: m.sample(0, 2, guidance=lambda t: np.ones(3), **HOW),
            r"one for each of the batch's 4 examples|2 examples; got shape \(3,\)",
        ),
        (lambda m: m.image_to_image(0, IMAGES, spacing="trailing"), r"got none"),
        (lambda m: m.inpaint(0, IMAGES[0], IMAGES[0], **HOW), r"images must be floats"),
        (lambda m: m.image_to_image(0, IMAGES.astype("u1"), **HOW), r"got uint8"),
        (lambda m: m.interpolate(0, IMAGES, IMAGES, [0.5], **HOW), r"\(8, 8, 1\); got"),
        (lambda m: m.invert(IMAGES[..., [0, 0, 0]], **HOW), r"got float32 of shape"),
        (
            lambda m: m.bits_per_dim(0, IMAGES + 2, **HOW),
            r"in \[-1, 1\]; got .* 2\.\.2",
        ),
        (lambda m: m.bits_per_dim(0, 255 - IMAGES.astype("u1"), **HOW), r"got uint8"),
        (lambda m: m.show(IMAGES.astype("u1")), r"floats in \[-1, 1\]; got uint8"),
        (lambda m: m.show(IMAGES[0]), r"a grid is made of \(n, h, w, c\)"),
    ],
)
def test_where_a_stranger_errs_one_line_says_it(model, call, line):
    with pytest.raises(ValueError, match=line) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_a_seed_is_a_key_and_a_name_a_sampler(model):
    x = model.sample(jax.random.key(7), 2, sampler=ddim(), **HOW)
    for seed in (7, np.int64(7), np.asarray(7)):
        np.testing.assert_array_equal(model.sample(seed, 2, sampler="ddim", **HOW), x)

"""A model draws, measures and edits as its config says, whatever it predicts."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import toy_model

from ddpm_jax import build
from ddpm_jax.config import ClipConfig
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion import editing, guidance, samplers, transitions
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.evaluation.likelihood import bound as likelihood

PREDICT = {
    "eps": transitions.from_eps,
    "x0": transitions.from_x0,
    "v": transitions.from_v,
}
VARIANCE = {
    "fixed_small": transitions.fixed_small,
    "fixed_large": transitions.fixed_large,
    "learned": transitions.learned,
    "learned_range": transitions.learned_range,
}
CLIPS = {
    "none": (ClipConfig(kind="none"), None),
    "static": (ClipConfig(bound=0.6), guidance.clip_static(0.6)),
    "dynamic": (
        ClipConfig(kind="dynamic", percentile=0.8),
        guidance.clip_dynamic(0.8),
    ),
}
SAMPLERS = {
    "ddpm": samplers.ddpm,
    "ddim": samplers.ddim,
    "ddim eta": lambda: samplers.ddim(eta=0.5),
    "dpm_solver_pp": samplers.dpm_solver_pp,
    "SDE 2M": lambda: samplers.dpm_solver_pp(stochastic=True),
    "unipc": samplers.unipc,
    "heun": samplers.heun,
}
LABEL = np.array([0, 2])
SHAPE = (2, 4, 4, 1)


def by_hand(model, label=None, *, predict, variance, clip=None, rederive=True):
    """The model's network, read by functions that the test chooses."""

    def network(x, t):
        return model.network.apply({"params": model.params}, x, t, label)

    return denoiser(
        network,
        predict=PREDICT[predict],
        variance=VARIANCE[variance],
        clip=CLIPS[clip][1] if clip else None,
        rederive=rederive,
    )


def check_drawn(name, predict, variance, clip):
    """`Model.sample` draws what the sampler draws of the network read by hand."""
    make, key = SAMPLERS[name], jax.random.key(3)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(2))
    how = {"predict": predict, "variance": variance}
    model = toy_model(num_steps=3, clip=CLIPS[clip][0], **how)
    denoise = by_hand(model, jnp.asarray(LABEL), clip=clip, **how)
    with jax.disable_jit():  # a program for each would take far longer
        hand = samplers.sample(keys, denoise, model.schedule, SHAPE, sampler=make())
        given = [make(), name] if name in build.SAMPLERS else [make()]
        for sampler in given:
            ours = model.sample(key, 2, sampler=sampler, label=LABEL, progress=False)
            np.testing.assert_array_equal(ours, hand)


EVERY = list(itertools.product(SAMPLERS, PREDICT))
READ = list(itertools.product(VARIANCE, CLIPS))


@pytest.mark.parametrize(
    "case", [(*first, *READ[i % len(READ)]) for i, first in enumerate(EVERY)]
)
def test_every_sampler_reads_the_model_as_its_config_says(case):
    check_drawn(*case)


@pytest.mark.slow
@pytest.mark.parametrize("first", EVERY)
def test_every_sampler_reads_every_model_as_its_config_says(first):
    for read in READ:
        check_drawn(*first, *read)


def test_without_a_name_it_is_ancestral_sampling(learned):
    plain = learned.sample(1, 2, label=LABEL)
    named = learned.sample(1, 2, label=LABEL, sampler="ddpm")
    np.testing.assert_array_equal(plain, named)


@pytest.fixture(scope="module")
def learned():
    """Labelled, predicts v, of a learned variance, clipped to an own bound."""
    return toy_model(
        predict="v",
        variance="learned_range",
        clip=CLIPS["static"][0],
        rederive=False,
    )


HOW = {"predict": "v", "variance": "learned_range", "rederive": False}
IMAGES = np.random.default_rng(1).integers(0, 256, (11, 4, 4, 1), np.uint8)
LABELS = np.arange(11, dtype=np.int32) % 3


def test_the_likelihood_is_that_of_the_model_as_it_is_read(learned):
    key = jax.random.key(5)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(11))
    denoise = by_hand(learned, jnp.asarray(LABELS), clip="static", **HOW)
    x0 = IMAGES / np.float32(127.5) - 1
    hand = bits_per_dim(keys, denoise, learned.schedule, jnp.clip(x0, -1, 1))

    def same(bound):
        for name in hand._fields:
            expected = getattr(hand, name)
            np.testing.assert_allclose(getattr(bound, name), expected, rtol=2e-4)

    same(learned.bits_per_dim(key, to_float(jnp.asarray(IMAGES)), label=LABELS))
    data = ImageArrays(images=IMAGES, labels=LABELS, label_names=("a", "b", "c"))
    same(likelihood.evaluate(key, learned, learned.schedule, data, batch_size=8))
    other = learned.bits_per_dim(key, to_float(jnp.asarray(IMAGES)), label=0)
    assert np.abs(other.total - hand.total)[LABELS > 0].min() > 1e-3


def test_a_shorter_chain_has_a_bound_of_its_own(learned):
    x0, key = to_float(jnp.asarray(IMAGES[:2])), jax.random.key(6)
    bound = learned.bits_per_dim(key, x0, steps=3, label=1)
    assert bound.terms.shape == (2, 3)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(2))
    chain = build.make_schedule(learned.config.diffusion.schedule, steps=3)
    denoise = by_hand(learned, jnp.asarray(1), clip="static", **HOW)
    hand = bits_per_dim(keys, denoise, chain, x0)
    np.testing.assert_allclose(bound.total, hand.total, rtol=2e-4)


def test_the_walk_can_be_watched(learned):
    """Images 1 and 2 of a key, and eps derived anew where that is wanted."""
    key, how = jax.random.key(7), {"sampler": "ddim", "label": 1}
    whole = learned.sample(key, 3, **how)
    walked = list(learned.sample_iter(key, 2, first=1, every=4, **how))
    assert [i for i, _ in walked] == [2, 0]
    np.testing.assert_allclose(walked[-1][1], whole[1:], atol=1e-5)
    *_, (_, again) = learned.sample_iter(key, 3, rederive=True, **how)
    assert np.abs(again - whole).max() > 0.01
    config = dataclasses.replace(
        learned.config,
        diffusion=dataclasses.replace(learned.config.diffusion, rederive=True),
    )
    other = dataclasses.replace(learned, config=config)
    np.testing.assert_allclose(again, other.sample(key, 3, **how), atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, np.array([0.5, 4.0]), "t"])
def test_guidance_mixes_the_two_outputs(learned, scale):
    """(1 - s) of the model without a label and s of it with one; then the reading."""
    if isinstance(scale, str):
        scale = lambda t: 1.0 + t / 5  # noqa: E731
    x, i = jax.random.normal(jax.random.key(8), SHAPE), jnp.asarray(4)
    estimate = learned.denoiser(LABEL, scale)(learned.schedule, x, i)

    def network(label):
        t = jnp.full(2, 4)
        return learned.network.apply({"params": learned.params}, x, t, label)

    with_label, without = network(jnp.asarray(LABEL)), network(jnp.full(2, 3))
    s = np.reshape(scale(4.0) if callable(scale) else scale, (-1, 1, 1, 1))
    mean = (1 - s) * without[..., :1] + s * with_label[..., :1]
    said = transitions.from_v(learned.schedule, x, i, mean)
    np.testing.assert_allclose(estimate.x0, np.clip(said.x0, -0.6, 0.6), atol=1e-5)
    np.testing.assert_allclose(estimate.eps, said.eps, atol=1e-5)
    spread = transitions.learned_range(learned.schedule, i, with_label[..., 1:], x)
    np.testing.assert_allclose(estimate.variance.variance, spread.variance, rtol=1e-5)


def test_edits_are_those_of_the_model_as_it_is_read(learned):
    key, x0 = jax.random.key(9), to_float(jnp.asarray(IMAGES[:2]))
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(2))
    chain = build.make_schedule(learned.config.diffusion.schedule, steps=4)
    label = jnp.asarray(LABEL)
    read = by_hand(learned, label, clip="static", **HOW)
    how = {"label": LABEL, "steps": 4}

    def same(ours, hand):
        np.testing.assert_allclose(ours, hand, atol=2e-5)

    # Half of 4 steps: the walk begins at index 1.
    same(
        learned.image_to_image(key, x0, start=0.5, sampler="ddim", **how),
        editing.image_to_image(
            keys, read, chain, x0, start_index=1, sampler=samplers.ddim()
        ),
    )
    mask = jnp.zeros((4, 4, 1)).at[:2].set(1.0)
    walk = {"jump": 2, "resample": 3}
    same(
        learned.inpaint(key, x0, mask, **walk, **how),
        editing.inpaint(keys, read, chain, x0, mask, **walk),
    )
    assert (
        np.abs(
            learned.inpaint(key, x0, mask, jump=1, resample=3, **how)
            - learned.inpaint(key, x0, mask, **walk, **how)
        ).max()
        > 0.01
    )
    weights = jnp.array([0.2, 0.9])
    same(
        learned.interpolate(key, *x0, weights, start=0.75, **how),
        editing.interpolate(key, read, chain, *x0, weights, start_index=2),
    )
    free = by_hand(learned, label, **HOW)
    same(learned.invert(x0, **how), samplers.ddim_invert(free, chain, x0))
    clipped = samplers.ddim_invert(read, chain, x0)
    assert np.abs(clipped - learned.invert(x0, **how)).max() > 0.01
    with pytest.raises(ValueError, match=r"start must lie in \(0, 1\]; got 0"):
        learned.image_to_image(key, x0, start=0, **how)


def test_every_edit_heeds_label_scale_sampler_and_steps(learned):
    key, x0 = jax.random.key(10), to_float(jnp.asarray(IMAGES[:2]))
    mask = jnp.zeros((4, 4, 1)).at[:2].set(1.0)
    weights = jnp.array([0.2, 0.9])
    edits = {
        "image_to_image": lambda **how: learned.image_to_image(key, x0, start=1, **how),
        "inpaint": lambda **how: learned.inpaint(key, x0, mask, resample=1, **how),
        "interpolate": lambda **how: learned.interpolate(
            key, *x0, weights, start=1, **how
        ),
    }
    base = {"label": 0, "steps": 5}
    others = (
        {"label": 2},
        {"guidance": 4.0},
        {"sampler": "ddim"},
        {"steps": 3},
        {"spacing": "trailing"},
    )
    for name, edit in edits.items():
        first = edit(**base)
        for other in others:
            assert np.abs(edit(**base | other) - first).max() > 1e-3, (name, other)
    first = learned.invert(x0, **base)
    for other in ({"label": 2}, {"steps": 3}, {"spacing": "trailing"}):
        assert np.abs(learned.invert(x0, **base | other) - first).max() > 1e-3, other


def test_the_network_is_asked_with_and_without_labels(learned):
    x, t = jnp.ones(SHAPE), jnp.array([1, 5])
    for label in (None, LABEL):
        expected = learned.network.apply({"params": learned.params}, x, t, label)
        np.testing.assert_array_equal(learned.denoise(x, t, label), expected)
    plain = toy_model(classes=None)
    with pytest.raises(ValueError, match="no labels to draw from; got label 1"):
        plain.sample(0, 2, label=1)

"""Limits on x_0, and classifier-free guidance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.guidance import classifier_free, clip_dynamic, clip_static

X = jnp.asarray(np.random.RandomState(0).standard_normal((4, 5, 3)), jnp.float32)
T = jnp.asarray([0, 10, 500, 999], jnp.int32)
LABEL = jnp.asarray([3, 1, 4, 1], jnp.int32)


def conditional(x, t, label):
    """Rounded once, so that every program of it gives the same bits."""
    column = (-1, *(1,) * (x.ndim - 1))
    return jnp.abs(x + label.reshape(column)) + t.reshape(column) / 1024


COND = conditional(X, T, LABEL)
UNCOND = conditional(X, T, jnp.full(4, 10))


def test_static_clipping():
    np.testing.assert_array_equal(clip_static()(X), np.clip(X, -1, 1))
    np.testing.assert_array_equal(clip_static(0.5)(X), np.clip(X, -0.5, 0.5))


def test_dynamic_clipping_works_per_example():
    x = np.array(X)
    x[0] *= 0.1
    quantile = np.quantile(np.abs(x).reshape(4, -1), 0.9, axis=1, method="linear")
    assert quantile[0] < 1 < quantile[1:].min()
    s = np.maximum(quantile, 1)[:, None, None]
    limited = clip_dynamic(0.9)(jnp.asarray(x))
    np.testing.assert_allclose(limited, np.clip(x, -s, s) / s, atol=1e-6)
    s = np.minimum(s, 1.1)
    limited = clip_dynamic(0.9, max_value=1.1)(jnp.asarray(x))
    np.testing.assert_allclose(limited, np.clip(x, -s, s) / s, atol=1e-6)


@pytest.mark.parametrize("options", [{"percentile": 0.0}, {"percentile": 1.5}])
def test_a_percentile_is_a_share(options):
    with pytest.raises(ValueError, match=r"percentile must lie in \(0, 1\]"):
        clip_dynamic(**options)


def test_the_largest_value_is_not_below_the_range():
    with pytest.raises(ValueError, match=r"max_value must be at least 1; got 0\.5"):
        clip_dynamic(max_value=0.5)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit])
def test_scale_1_is_the_condition_and_0_is_none_to_the_bit(jit):
    for scale, expected in ((1.0, COND), (0.0, UNCOND)):
        guided = classifier_free(conditional, LABEL, 10, scale)
        alone = jit(conditional)(X, T, LABEL if scale else jnp.full(4, 10))
        np.testing.assert_array_equal(jit(lambda x, t, g=guided: g(x, t))(X, T), alone)
        np.testing.assert_allclose(alone, expected, atol=1e-6)


def test_scales_of_every_kind():
    expected = UNCOND + 2.5 * (COND - UNCOND)
    for scale in (2.5, jnp.asarray(2.5), jnp.full(4, 2.5), lambda t: 2.5):
        output = classifier_free(conditional, LABEL, 10, scale)(X, T)
        np.testing.assert_allclose(output, expected, atol=1e-5)
    each = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    expected = UNCOND + each[:, None, None] * (COND - UNCOND)
    output = classifier_free(conditional, LABEL, 10, each)(X, T)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    output = classifier_free(conditional, LABEL, 10, lambda t: t / 999)(X, T)
    expected = UNCOND + (T / 999)[:, None, None] * (COND - UNCOND)
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_one_label_for_the_whole_batch():
    one = classifier_free(conditional, 3, 10, 2.0)(X, T)
    all_of_it = classifier_free(conditional, jnp.full(4, 3), 10, 2.0)(X, T)
    np.testing.assert_array_equal(one, all_of_it)


def test_guidance_over_a_range_of_steps():
    guided = classifier_free(conditional, LABEL, 10, 4.0, first_step=10, last_step=500)
    output = guided(X, T)
    everywhere = classifier_free(conditional, LABEL, 10, 4.0)(X, T)
    np.testing.assert_array_equal(output[1:3], everywhere[1:3])
    np.testing.assert_array_equal(output[0::3], COND[0::3])


def test_rescaled_guidance_has_the_conditional_deviation():
    guided = classifier_free(conditional, LABEL, 10, 6.0, rescale=1.0)(X, T)
    plain = classifier_free(conditional, LABEL, 10, 6.0)(X, T)
    axes = (1, 2)
    np.testing.assert_allclose(np.std(guided, axes), np.std(COND, axes), rtol=1e-5)
    half = classifier_free(conditional, LABEL, 10, 6.0, rescale=0.5)(X, T)
    np.testing.assert_allclose(half, 0.5 * (guided + plain), atol=1e-5)


def test_a_learned_variance_is_that_of_the_condition():
    def both(x, t, label):
        mean = conditional(x, t, label)
        return jnp.concatenate([mean, 7 * mean], axis=-1)

    output = classifier_free(both, LABEL, 10, 3.0)(X, T)
    plain = classifier_free(conditional, LABEL, 10, 3.0)(X, T)
    np.testing.assert_array_equal(output[..., :3], plain)
    np.testing.assert_array_equal(output[..., 3:], 7 * COND)


def test_both_branches_are_one_call():
    calls = []

    def spy(x, t, label):
        calls.append((x.shape, t.shape, label.tolist()))
        return x

    classifier_free(spy, LABEL, 10, 2.0)(X, T)
    assert calls == [((8, 5, 3), (8,), [3, 1, 4, 1, 10, 10, 10, 10])]


def test_labels_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"label must be .* \(4,\); got \(3,\)"):
        classifier_free(conditional, LABEL[:3], 10, 2.0)(X, T)

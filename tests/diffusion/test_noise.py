"""Noise belongs to its key, whatever the generator of the key.

Under `jax.vmap`, JAX's rbg draws with the first key for all.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import samplers, schedules
from ddpm_jax.diffusion.importance import loss_second_moment, uniform_steps
from ddpm_jax.diffusion.noise import draw_noise, fold_in, threefry_key

GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")


def own_keys(impl, count=4):
    return jax.vmap(lambda i: fold_in(jax.random.key(3, impl=impl), i))(
        jnp.arange(count)
    )


@pytest.mark.parametrize("impl", GENERATORS)
def test_an_image_depends_on_its_key_and_not_on_its_batch(impl):
    chain = schedules.make_schedule(schedules.linear_betas(5, end=0.4))
    keys = own_keys(impl)

    def draw(part):
        return np.asarray(
            samplers.sample(part, lambda x, t: 0.1 * x, chain, (len(part), 3))
        )

    whole = draw(keys)
    np.testing.assert_array_equal(
        whole, np.concatenate([draw(keys[:1]), draw(keys[1:])])
    )
    assert len(np.unique(whole, axis=0)) == len(whole)


@pytest.mark.parametrize("impl", GENERATORS)
def test_keys_that_were_split_elsewhere_are_each_their_own(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    like = jnp.zeros((4, 3))
    whole = np.asarray(draw_noise(keys, like))
    each = [draw_noise(key[None], like[:1]) for key in keys]
    np.testing.assert_array_equal(whole, np.concatenate(each))
    np.testing.assert_array_equal(whole[0], draw_noise(keys[0], like[0]))
    assert len(np.unique(whole, axis=0)) == 4


@pytest.mark.parametrize("sampler", [uniform_steps(1000), loss_second_moment(1000)])
@pytest.mark.parametrize("impl", GENERATORS)
def test_the_step_of_an_example_is_its_own(sampler, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 8)
    t, _ = sampler.draw(sampler.init(), keys)
    alone, _ = sampler.draw(sampler.init(), keys[5:6])
    assert alone[0] == t[5]
    assert len(set(np.asarray(t).tolist())) > 4


@pytest.mark.parametrize("impl", GENERATORS)
def test_a_seed_names_the_same_noise_under_every_generator(impl):
    like = jnp.zeros((2, 3))
    wanted = draw_noise(jax.random.key(7, impl="threefry2x32"), like)
    np.testing.assert_array_equal(
        draw_noise(jax.random.key(7, impl=impl), like), wanted
    )
    with jax.default_prng_impl(impl):
        np.testing.assert_array_equal(draw_noise(jax.random.PRNGKey(7), like), wanted)


def test_every_word_of_a_key_counts():
    words = np.zeros((5, 4), np.uint32)
    words[np.arange(1, 5), np.arange(4)] = 9
    keys = threefry_key(jax.random.wrap_key_data(words, impl="rbg"))
    data = np.asarray(jax.random.key_data(keys))
    assert all(np.any(a != b) for a, b in itertools.combinations(data, 2))


@pytest.mark.parametrize("key", [jnp.zeros(3, jnp.uint32), jnp.zeros(2), jnp.uint32(1)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match=r"a key must be one of jax.random.key"):
        draw_noise(key, jnp.zeros((2, 3)))


def test_each_of_many_keys_is_folded_as_it_is_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    folded = fold_in(keys, 5)
    for alone, found in zip(keys, folded, strict=True):
        expected = jax.random.key_data(jax.random.fold_in(alone, 5))
        np.testing.assert_array_equal(jax.random.key_data(found), expected)

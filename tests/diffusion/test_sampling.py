"""The loop: what is compiled when, what a key decides, and where a walk may begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ddpm_jax.diffusion.closures import Closure
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.samplers import (
    Sampler,
    ddim,
    ddim_invert,
    ddpm,
    dpm_solver_pp,
    heun,
    sample,
    sample_iter,
    unipc,
)
from ddpm_jax.diffusion.samplers.base import SampleState
from ddpm_jax.diffusion.schedules import (
    linear_betas,
    make_schedule,
    spaced_timesteps,
)

BETAS = linear_betas(1000)


def respaced(count, spacing="trailing"):
    kept = spaced_timesteps(1000, count, spacing=spacing)
    return make_schedule(BETAS, timesteps=kept)


SHORT = respaced(10)


def model(params, x, t):
    return params * jnp.tanh(x) + 0.001 * t.reshape((-1,) + (1,) * (x.ndim - 1))


DENOISE = Partial(model, jnp.asarray(0.5))


@pytest.mark.parametrize("make", [ddpm, lambda: ddim(eta=0.5), heun, dpm_solver_pp])
def test_chunks_walk_as_the_scan_does(make):
    key, shape = jax.random.key(0), (2, 3)
    expected = sample(key, DENOISE, SHORT, shape, sampler=make())
    for every in (3, 10, 100):
        chain = list(
            sample_iter(key, DENOISE, SHORT, shape, sampler=make(), every=every)
        )
        indices = [index for index, _ in chain]
        assert indices == sorted({max(10 - every * k, 0) for k in range(1, 5)})[::-1]
        np.testing.assert_allclose(chain[-1][1], expected, rtol=0, atol=1e-6)


def test_no_two_draws_of_a_walk_share_a_key():
    """x_T and the noise of every step are independent: here the sum of them all."""

    def keeps(key, denoise, schedule, state, i):
        noise = jax.random.normal(key, state.x.shape)
        return SampleState(jnp.concatenate([noise[:1], state.x[:-1]])), None

    shape = (11, 1000)  # a row for x_T, and one for each of the 10 steps
    walk = Sampler(lambda schedule, x: SampleState(x), keeps)
    rows = sample(jax.random.key(0), DENOISE, SHORT, shape, sampler=walk)
    alike = np.corrcoef(rows) - np.eye(11)
    assert np.abs(alike).max() < 0.2


def test_nothing_is_traced_twice():
    """New keys, weights, scales, etas and tables of one length run one program."""
    traces = []

    def network(params, x, t, label):
        traces.append(t.dtype)
        return model(params, x, t) + 0.1 * label[:, None]

    def guided(params, scale, label):
        conditional = Partial(network, jnp.asarray(params))
        return classifier_free(conditional, label, 10, scale, first_step=label[0])

    def draw(seed, params, scale, eta, spacing, label):
        key = jax.random.key(seed)
        denoise = guided(params, scale, jnp.asarray([label, label]))
        sampler, schedule = ddim(eta=eta), respaced(10, spacing)
        return sample(key, denoise, schedule, (2, 3), sampler=sampler)

    first = draw(0, 0.5, 2.0, 0.3, "trailing", 1)
    assert len(traces) == 1 and traces[0] == jnp.int32
    for changed in (
        draw(1, 0.5, 2.0, 0.3, "trailing", 1),
        draw(0, 0.7, 2.0, 0.3, "trailing", 1),
        draw(0, 0.5, 3, 0.3, "trailing", 1),
        draw(0, 0.5, 2.0, 0.6, "trailing", 1),
        draw(0, 0.5, 2.0, 0.3, "leading", 1),
        draw(0, 0.5, 2.0, 0.3, "trailing", 2),
    ):
        assert np.max(np.abs(changed - first)) > 1e-3
    assert len(traces) == 1

    for every, start in ((3, None), (4, None), (5, 6)):
        for _ in sample_iter(
            jax.random.key(every),
            guided(0.5, float(every), jnp.asarray([1, 1])),
            SHORT,
            (2, 3),
            sampler=ddim(eta=0.1 * every),
            start_index=start,
            every=every,
        ):
            pass
    assert len(traces) == 2

    for params in (0.5, 0.6):
        ddim_invert(
            guided(params, params, jnp.asarray([1, 1])), SHORT, jnp.ones((2, 3))
        )
    assert len(traces) == 3


def test_a_plain_function_and_a_plain_sampler_are_compiled_once():
    traces = []

    def denoise(x, t):
        traces.append(t)
        return 0.5 * x

    def init(schedule, x):
        return ddim().init(schedule, x)

    def step(key, denoise, schedule, state, i):
        return ddim().step(key, denoise, schedule, state, i)

    for seed in range(3):
        key = jax.random.key(seed)
        x0 = sample(key, denoise, SHORT, (2, 3), sampler=Sampler(init, step))
    assert len(traces) == 1
    expected = sample(key, denoise, SHORT, (2, 3), sampler=ddim())
    np.testing.assert_allclose(x0, expected, atol=1e-6)


def test_sampling_is_fit_for_an_outer_jit():
    def outer(key, params, eta):
        denoise = Partial(model, params)
        return sample(key, denoise, SHORT, (2, 3), sampler=ddim(eta=eta))

    key = jax.random.key(1)
    expected = sample(key, DENOISE, SHORT, (2, 3), sampler=ddim(eta=0.5))
    np.testing.assert_allclose(jax.jit(outer)(key, 0.5, 0.5), expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        ddpm,
        lambda: ddim(eta=0.5),
        lambda: dpm_solver_pp(stochastic=True),
        lambda: heun(churn=4.0),
        unipc,
    ],
)
def test_with_a_key_per_example_an_image_does_not_know_its_batch(make):
    keys = jax.random.split(jax.random.key(2), 3)
    together = sample(keys, DENOISE, SHORT, (3, 4), sampler=make())
    for k in range(3):
        alone = sample(keys[k : k + 1], DENOISE, SHORT, (1, 4), sampler=make())
        np.testing.assert_allclose(alone[0], together[k], rtol=1e-5, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_every_step_draws_anew_and_the_last_not_at_all():
    """A network that says x_0 = 0 leaves each step's own noise to be read off."""
    betas = np.full(4, 0.5)
    schedule = make_schedule(betas)
    denoise = denoiser(DENOISE, clip=lambda x0: 0 * x0)
    chain = sample_iter(jax.random.key(3), denoise, schedule, (1, 500))
    x = [np.asarray(state)[0] for _, state in chain]
    weight = np.asarray(schedule.posterior_mean_coef2)
    noises = [x[k] - weight[3 - k] * x[k - 1] for k in range(1, 4)]
    np.testing.assert_allclose(np.std(noises[:2]), np.sqrt(0.5), rtol=0.1)
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 0.2
    np.testing.assert_allclose(noises[2], 0, atol=1e-6)


def test_a_walk_may_begin_anywhere():
    x = jnp.full((2, 3), 0.3)
    key = jax.random.key(4)
    chain = dict(sample_iter(key, DENOISE, SHORT, (2, 3), sampler=ddpm(), x_init=x))
    assert list(chain) == list(range(9, -1, -1))
    rest = sample(key, DENOISE, SHORT, (2, 3), x_init=chain[5], start_index=4)
    np.testing.assert_allclose(rest, chain[0], atol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"x_init": np.zeros((2, 2))}, r"x_init must have the shape .* \(2, 3\)"),
        ({"start_index": 10}, r"index to start at must lie in 0..9; got 10"),
        ({"start_index": -1}, "index to start at"),
    ],
)
def test_where_a_walk_cannot_begin(more, message):
    with pytest.raises(ValueError, match=message):
        sample(jax.random.key(0), DENOISE, SHORT, (2, 3), **more)
    with pytest.raises(ValueError, match=message):
        sample_iter(jax.random.key(0), DENOISE, SHORT, (2, 3), **more)


def test_chunks_have_steps():
    with pytest.raises(ValueError, match="every must be at least 1 step; got 0"):
        sample_iter(jax.random.key(0), DENOISE, SHORT, (2, 3), every=0)


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="output must have the shape"):
        sample(jax.random.key(0), lambda x, t: x[:, :2], SHORT, (2, 3))


def test_bound_functions_are_values():
    def scaled(x, *, factor, power):
        return factor * x**power

    one, two = (
        Closure(scaled, factor=2.0, power=3),
        Closure(scaled, factor=5.0, power=3),
    )
    assert one(2.0) == 16.0
    assert jax.tree.leaves(one) == [2.0]
    assert jax.tree.structure(one) == jax.tree.structure(two)
    other = Closure(scaled, factor=2.0, power=2)
    assert jax.tree.structure(one) != jax.tree.structure(other)
    tripled = jax.tree.map(lambda leaf: 3 * leaf, one)
    assert tripled(2.0) == 48.0
    # Whatever stands at a leaf, it stays a leaf.
    assert jax.tree.leaves(jax.tree.map(str, one)) == ["2.0"]
    assert repr(one) == "scaled(factor=2.0, power=3)"

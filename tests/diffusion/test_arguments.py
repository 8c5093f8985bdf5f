"""What the functions make of arguments at the edge: keys, steps, types, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ddpm_jax.diffusion import (
    editing,
    guidance,
    importance,
    likelihood,
    losses,
    samplers,
    schedules,
    solver_spacing,
    transitions,
)
from ddpm_jax.diffusion.denoiser import Estimate, denoiser

SHORT = schedules.linear_betas(10, start=0.01, end=0.4)
KEY = jax.random.key(0)


def half(x, t):
    return 0.5 * x


def scaled(w, x, t):
    return w * x


@pytest.fixture(scope="module")
def schedule():
    return schedules.make_schedule(SHORT)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (2, 4))


@pytest.mark.parametrize("one_each", [False, True])
def test_an_old_key_draws_what_the_new_one_draws(schedule, one_each):
    old, new = jax.random.PRNGKey(0), jax.random.key(0)
    if one_each:
        old, new = jax.random.split(old, 2), jax.random.split(new, 2)
    draw = partial(samplers.sample, denoise=half, schedule=schedule, shape=(2, 4))
    np.testing.assert_array_equal(draw(old), draw(new))


def test_there_is_one_key_or_one_for_each_example(schedule, x):
    for count in (1, 3):
        keys = jax.random.split(KEY, count)
        line = rf"one for each example .*\(2, 4\); got keys of shape \({count},\)"
        with pytest.raises(ValueError, match=line):
            samplers.sample(keys, half, schedule, (2, 4))
        with pytest.raises(ValueError, match=line):
            likelihood.bits_per_dim(keys, half, schedule, x / 9)


def test_a_wrong_step_is_noticed_where_no_table_is_read(schedule, x):
    gaussian = transitions.q_posterior(schedule, x, x, 3)
    for predict in (transitions.from_eps, transitions.from_x0):
        loss = partial(losses.simple_loss, schedule, x, x, predict=predict)
        with pytest.raises(ValueError, match=r"0\.\.9; got 10"):
            loss(10, x, 0 * x)
        found = jax.jit(loss)(jnp.array([3, 10]), x, 0 * x)
        np.testing.assert_array_equal(np.isnan(found), [False, True])
    for wrong, line in ((-1, "negative"), (0.5, "integer")):
        with pytest.raises(ValueError, match=line):
            transitions.p_sample(gaussian, wrong, x)
    assert np.isnan(jax.jit(transitions.p_sample)(gaussian, -1, x)).all()
    with pytest.raises(ValueError, match=r"scalar or \(batch,\); got shape \(2, 1\)"):
        losses.vlb_term(schedule, x, x, jnp.array([[1], [2]]), x, x)


def test_steps_may_be_lists(schedule, x):
    np.testing.assert_array_equal(
        transitions.q_sample(schedule, x, [0, 9], x),
        transitions.q_sample(schedule, x, jnp.array([0, 9]), x),
    )


@pytest.mark.parametrize("t", [3, [3, 4]])
def test_gaussians_have_the_shape_of_the_data(schedule, x, t):
    for gaussian in (
        transitions.q_mean_variance(schedule, x, t),
        transitions.q_posterior(schedule, x, x, t),
        transitions.p_mean_variance(schedule, x, t, x)[0],
    ):
        assert {field.shape for field in gaussian} == {x.shape}


def test_a_variance_rule_may_give_the_log_variance_alone(schedule, x):
    def rule(schedule, t, values, like):
        return jnp.full(like.shape, np.log(0.25))

    gaussian, _ = transitions.p_mean_variance(schedule, x, 3, x, variance=rule)
    np.testing.assert_allclose(gaussian.variance, 0.25, rtol=1e-6)
    assert gaussian.log_variance.shape == x.shape


def test_zero_terminal_snr_is_never_hidden_from_eps(x):
    """Where the schedule is traced nothing can be raised, and no clip may hide it."""
    chain = schedules.make_schedule(schedules.zero_terminal_snr(SHORT))

    @jax.jit
    def draw(chain):
        return samplers.sample(KEY, lambda x, t: -x, chain, (2, 4))

    assert np.isnan(draw(chain)).all()


def test_a_guided_denoiser_takes_one_step_for_all(x):
    def conditional(x, t, label):
        return x * (t + label).astype(x.dtype)[:, None]

    denoise = guidance.classifier_free(conditional, jnp.array([1, 2]), 0, 2.0)
    np.testing.assert_array_equal(denoise(x, 3), denoise(x, jnp.array([3, 3])))


def test_bits_per_dim_is_compiled_once(schedule, x):
    traces = []

    def counted(w, x, t):
        traces.append(1)
        return w * x

    for w in (0.1, 0.2, 0.3):
        likelihood.bits_per_dim(KEY, Partial(counted, w), schedule, x / 9)
    assert len(traces) == 1


def test_whole_numbers_of_a_bound_network_compile_nothing(schedule):
    traces = []

    def counted(scale, w, x, t, label):
        traces.append(1)
        return scale * w * x

    for scale in (1, 2, 3):
        denoise = guidance.classifier_free(
            Partial(counted, scale, jnp.ones(4)[None]), jnp.zeros(2, int), 1, 2.0
        )
        samplers.sample(KEY, denoise, schedule, (2, 4))
    assert len(traces) == 1


@pytest.mark.parametrize("kind", [np.int32, np.float16, jnp.bfloat16])
def test_every_loop_takes_data_of_other_types(schedule, kind):
    data = np.ones((2, 4)).astype(kind)
    as_float = jnp.ones((2, 4))
    mask = np.zeros((2, 4))
    for use in (
        lambda x: samplers.sample(KEY, half, schedule, (2, 4), x_init=x),
        lambda x: samplers.ddim_invert(half, schedule, x),
        lambda x: editing.image_to_image(KEY, half, schedule, x, start_index=3),
        lambda x: editing.inpaint(KEY, half, schedule, x, mask, resample=1),
        lambda x: likelihood.bits_per_dim(KEY, half, schedule, x).total,
    ):
        np.testing.assert_array_equal(use(data), use(as_float))


def test_inversion_takes_any_clip(schedule, x):
    found = [
        samplers.ddim_invert(denoiser(half, clip=clip), schedule, x)
        for clip in (lambda x: jnp.clip(x, -1, 1), guidance.clip_static(), None)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.01


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.ddpm(),
        samplers.ddim(eta=0.5),
        samplers.dpm_solver_pp(order=3),
        samplers.dpm_solver_pp(stochastic=True),
        samplers.unipc(),
        samplers.heun(),
        samplers.heun(churn=2.0),
    ],
    ids=["ddpm", "ddim", "3M", "2M SDE", "unipc", "heun", "churned"],
)
def test_a_sample_has_a_gradient(schedule, sampler):
    def total(w):
        denoise = Partial(scaled, w)
        return samplers.sample(KEY, denoise, schedule, (2, 4), sampler=sampler).sum()

    forward, backward = jax.jacfwd(total)(0.5), jax.grad(total)(0.5)
    assert np.isfinite(backward)
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


@pytest.mark.parametrize(
    "sampler",
    [samplers.ddpm(), samplers.dpm_solver_pp(order=3), samplers.unipc()],
    ids=["ddpm", "3M", "unipc"],
)
@pytest.mark.parametrize("steps", [1, 5])
def test_out_of_pure_noise_a_sample_has_a_gradient_too(sampler, steps):
    betas = schedules.zero_terminal_snr(np.linspace(0.1, 0.6, 8))
    chain = schedules.make_schedule(betas, timesteps=np.arange(8)[-steps:])

    def total(w):
        denoise = denoiser(Partial(scaled, w), predict=transitions.from_v)
        return samplers.sample(KEY, denoise, chain, (2, 4), sampler=sampler).sum()

    forward, backward = jax.jacfwd(total)(0.5), jax.grad(total)(0.5)
    assert np.isfinite(backward) and backward != 0
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


def test_eta_has_a_gradient(schedule):
    def total(eta):
        sampler = samplers.ddim(eta=eta)
        return samplers.sample(KEY, half, schedule, (2, 4), sampler=sampler).sum()

    assert np.isfinite(jax.grad(total)(0.5))


def test_eta_needs_a_noise(schedule, x):
    estimate = Estimate(x, x, transitions.Variance(x, x))
    with pytest.raises(ValueError, match=r"eta=1\.0"):
        samplers.ddim_update(schedule, x, 3, estimate, eta=1.0)
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 2"):
        samplers.ddim_update(schedule, x, 3, estimate, x, eta=2.0)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: schedules.zero_terminal_snr(SHORT[:1]), "at least 2 steps"),
        (lambda: guidance.clip_static(-1.0), r"must be positive; got -1\.0"),
        (
            lambda: solver_spacing.log_snr_positions(np.array([-1.0, 0.2]), 2),
            r"betas must lie in \(0, 1\)",
        ),
        (
            lambda: solver_spacing.karras_positions(np.array([]), 2),
            "betas must be a non-empty vector",
        ),
        (
            lambda: losses.simple_loss(
                schedules.make_schedule(SHORT),
                jnp.ones((2, 4)),
                jnp.ones((2, 4)),
                1,
                jnp.ones((1, 4)),
                jnp.ones((2, 4)),
            ),
            "x0, xt and noise must have one shape",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def test_what_has_no_spread_is_not_rescaled():
    def conditional(x, t, label):
        return x + label.astype(x.dtype)[:, None]

    x = jnp.ones((2, 1))
    arguments = (conditional, jnp.array([1, 2]), 0, 3.0)
    plain = guidance.classifier_free(*arguments)
    rescaled = guidance.classifier_free(*arguments, rescale=0.5)
    np.testing.assert_array_equal(rescaled(x, 3), plain(x, 3))


def test_a_vector_without_length_is_mixed_along_the_line():
    point = jnp.arange(4.0)
    found = editing.slerp(jnp.zeros(4), point, jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, np.outer([0, 0.5, 1], point))


def test_losses_that_are_all_zero_leave_the_steps_uniform():
    sampler = importance.loss_second_moment(3, history=1)
    state = sampler.update(sampler.init(), jnp.arange(3), jnp.zeros(3))
    np.testing.assert_allclose(importance.step_probabilities(state), 1 / 3)


def test_schedules_are_compared_as_objects(schedule):
    assert schedule == schedule and schedule != schedules.make_schedule(SHORT)
    assert hash(schedule) == hash(schedule)

"""The train step draws what algorithm 1 says, and averages what it should.

A network and a loss that only record make everything that is drawn visible.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion.importance import StepSampler, uniform_steps
from ddpm_jax.diffusion.losses import simple_loss
from ddpm_jax.diffusion.schedules import linear_betas, make_schedule
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.training import clipping
from ddpm_jax.training.clipping import clip_by_global_norm
from ddpm_jax.training.state import adam, init_state
from ddpm_jax.training.step import Batch, make_train_step

STEPS = 4
SCHEDULE = dict(start=0.1, end=0.4)


@pytest.fixture(scope="module")
def schedule():
    return make_schedule(linear_betas(STEPS, **SCHEDULE))


def scale(variables, x, t, label, train, *, rngs):
    """A network with one weight."""
    assert train
    return variables["params"]["w"] * x


def batch_of(count, value=200, label=None):
    image = jnp.full((count, 2, 2, 1), value, jnp.uint8)
    return Batch(image, label, jnp.arange(count))


def state_of(tx, step=0, key=0):
    params = {"w": jnp.ones(())}
    state = init_state(jax.random.key(key), params, tx, uniform_steps(STEPS).init())
    return state.replace(step=jnp.array(step))


class Spy:
    """A loss that keeps what it is given."""

    def __call__(self, schedule, x0, xt, t, noise, output):
        self.x0, self.xt, self.t, self.noise, self.output = x0, xt, t, noise, output
        return simple_loss(schedule, x0, xt, t, noise, output)


def spied(schedule, batch, *, step=0, apply=scale, **options):
    """What one eager step of the recording loss saw."""
    spy, tx = Spy(), optax.sgd(0.1)
    train_step = make_train_step(
        apply,
        schedule,
        tx,
        loss=spy,
        step_sampler=uniform_steps(STEPS),
        ema_decay=0.9,
        **options,
    )
    spy.state, spy.metrics = train_step(state_of(tx, step), batch)
    return spy


def test_every_step_of_the_chain_is_drawn_equally_often(schedule):
    count = 4000
    seen = np.bincount(spied(schedule, batch_of(count)).t, minlength=STEPS)
    assert len(seen) == STEPS
    expected, spread = count / STEPS, np.sqrt(count * 0.25 * 0.75)
    np.testing.assert_allclose(seen, expected, atol=5 * spread)


def test_x_t_is_the_noised_image(schedule):
    spy = spied(schedule, batch_of(64))
    np.testing.assert_allclose(spy.x0, 200 / 127.5 - 1, rtol=1e-6)
    expected = q_sample(schedule, spy.x0, spy.t, spy.noise)
    np.testing.assert_array_equal(spy.xt, expected)


def test_noise_is_standard_and_each_example_has_its_own(schedule):
    noise = np.asarray(spied(schedule, batch_of(4000)).noise).reshape(4000, -1)
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(4), atol=0.12)
    assert len(np.unique(noise, axis=0)) == len(noise)


def test_every_update_draws_anew(schedule):
    first, second = (spied(schedule, batch_of(64), step=s) for s in (0, 1))
    assert not np.any(np.asarray(first.noise) == np.asarray(second.noise))
    assert np.any(np.asarray(first.t) != np.asarray(second.t))


def test_randomness_belongs_to_the_place_in_the_global_batch(schedule):
    whole = spied(schedule, batch_of(8))
    part = jax.tree.map(lambda x: x[5:7], batch_of(8))
    half = spied(schedule, part)
    np.testing.assert_array_equal(half.noise, whole.noise[5:7])
    np.testing.assert_array_equal(half.t, whole.t[5:7])


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_randomness_is_the_same_under_every_generator(schedule, impl):
    """Under vmap, rbg draws with the first key for all."""

    def hides(variables, x, t, label, train, *, rngs):
        return x * jax.random.bernoulli(rngs["dropout"], shape=x.shape)

    batch, options = batch_of(8), {"flip": True, "apply": hides}
    wanted = spied(schedule, batch, **options)
    with jax.default_prng_impl(impl):
        whole = spied(schedule, batch, **options)
        part = spied(schedule, jax.tree.map(lambda x: x[5:7], batch), **options)
    for name in ("noise", "t", "output"):
        drawn = np.asarray(getattr(whole, name))
        np.testing.assert_array_equal(getattr(part, name), drawn[5:7])
        np.testing.assert_array_equal(drawn, getattr(wanted, name))


def test_half_of_the_images_are_mirrored(schedule):
    image = jnp.broadcast_to(
        jnp.array([[0, 255]], jnp.uint8)[None, :, :, None], (2000, 1, 2, 1)
    )
    batch = Batch(image, None, jnp.arange(2000))
    mirrored = np.asarray(spied(schedule, batch, flip=True).x0)[:, 0, 0, 0] == 1
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
    assert not np.any(np.asarray(spied(schedule, batch).x0)[:, 0, 0, 0] == 1)


def test_labels_are_dropped_at_their_rate_and_only_then(schedule):
    def tell(variables, x, t, label, train, *, rngs):
        return jnp.broadcast_to(label.astype(jnp.float32).reshape(-1, 1, 1, 1), x.shape)

    batch = batch_of(2000, label=jnp.full(2000, 3))
    options = {"apply": tell, "null_label": 10}
    told = spied(schedule, batch, label_dropout=0.2, **options).output[:, 0, 0, 0]
    assert set(np.unique(told)) == {3, 10}
    assert abs(np.mean(told == 10) - 0.2) < 5 * 0.4 / np.sqrt(2000)
    kept = spied(schedule, batch, **options).output
    np.testing.assert_array_equal(kept, 3)


def test_the_network_is_told_the_original_step_of_a_respaced_chain():
    respaced = make_schedule(
        linear_betas(100, end=0.2), timesteps=np.array([3, 50, 70, 99])
    )

    def tell(variables, x, t, label, train, *, rngs):
        return jnp.broadcast_to(t.astype(jnp.float32).reshape(-1, 1, 1, 1), x.shape)

    spy = spied(respaced, batch_of(64), apply=tell)
    told = np.asarray(spy.output)[:, 0, 0, 0]
    np.testing.assert_array_equal(told, np.array([3, 50, 70, 99])[np.asarray(spy.t)])


def test_each_example_has_its_own_dropout_key(schedule):
    def draw(variables, x, t, label, train, *, rngs):
        return jax.random.normal(rngs["dropout"], x.shape)

    output = np.asarray(spied(schedule, batch_of(16), apply=draw).output)
    assert len(np.unique(output)) == output.size


def test_the_gradient_is_that_of_the_mean_loss(schedule):
    spy = spied(schedule, batch_of(32))
    residual = np.asarray(spy.xt - spy.noise, np.float64)  # w = 1
    gradient = np.mean(2 * residual * np.asarray(spy.xt, np.float64))
    np.testing.assert_allclose(spy.metrics["loss"], np.mean(residual**2), rtol=1e-5)
    np.testing.assert_allclose(spy.metrics["grad_norm"], abs(gradient), rtol=1e-5)
    np.testing.assert_allclose(spy.state.params["w"], 1 - 0.1 * gradient, rtol=1e-5)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_of_constant_weights(schedule, warmup):
    """If every update sets the weight to 1, the decays' product is what is left of 0.

    Without a warm-up k of them leave 1 - decay^k of it.
    """
    to_one = optax.GradientTransformation(
        lambda params: (),
        lambda grads, state, params: (jax.tree.map(lambda p: 1 - p, params), state),
    )
    train_step = make_train_step(
        scale,
        schedule,
        to_one,
        loss=Spy(),
        step_sampler=uniform_steps(STEPS),
        ema_decay=0.8,
        ema_warmup=warmup,
    )
    state = init_state(jax.random.key(0), {"w": jnp.zeros(())}, to_one, ())
    left = 1.0
    for k in range(1, 50):
        state, _ = train_step(state, batch_of(2))
        left *= min(0.8, k / (9 + k)) if warmup else 0.8
        np.testing.assert_allclose(state.ema_params["w"], 1 - left, rtol=1e-6)
        assert int(state.step) == k


@pytest.mark.parametrize("of_gradient", [True, False])
def test_an_update_that_is_not_finite_is_skipped_and_counted(schedule, of_gradient):
    def broken(schedule, x0, xt, t, noise, output):
        seen = output[:, 0, 0, 0]
        # The root of 0 is 0, and its slope is not a number times 0.
        return jnp.sqrt(0 * seen) if of_gradient else jnp.inf + 0 * seen

    tx = optax.adam(0.1)
    train_step = make_train_step(
        scale,
        schedule,
        tx,
        loss=broken,
        step_sampler=uniform_steps(STEPS),
        ema_decay=0.9,
        skip_nonfinite=True,
    )
    before = state_of(tx)
    after, metrics = train_step(before, batch_of(2))
    assert np.isfinite(metrics["loss"]) == of_gradient
    assert not np.isfinite(metrics["grad_norm"]) or not of_gradient
    same = before.replace(step=after.step, skipped=after.skipped, key=after.key)
    jax.tree.map(
        np.testing.assert_array_equal, same.replace(key=0), after.replace(key=0)
    )
    assert (int(after.step), int(after.skipped)) == (1, 1)


def test_a_step_is_weighed_and_its_loss_is_remembered_unweighed(schedule):
    def draw(state, keys):
        count = len(keys)
        return jnp.arange(count) % STEPS, 1.0 + jnp.arange(count)

    seen, spy = [], Spy()
    sampler = StepSampler(
        init=lambda: (), draw=draw, update=lambda state, *drawn: seen.append(drawn)
    )
    train_step = make_train_step(
        scale,
        schedule,
        optax.sgd(0.1),
        loss=spy,
        step_sampler=sampler,
        ema_decay=0.9,
    )
    _, metrics = train_step(state_of(optax.sgd(0.1)), batch_of(6))
    plain = np.mean(np.square(np.asarray(spy.xt - spy.noise)), axis=(1, 2, 3))  # w = 1
    np.testing.assert_allclose(metrics["loss"], np.mean(plain * np.arange(1, 7)), 1e-5)
    ((t, losses),) = seen
    np.testing.assert_array_equal(t, np.arange(6) % STEPS)
    np.testing.assert_allclose(losses, plain, rtol=1e-5)


def test_an_update_of_adam_is_its_formula():
    """Kingma & Ba 2015, algorithm 1, with the decay of Loshchilov & Hutter 2019."""
    told = {"beta1": 0.7, "beta2": 0.9, "eps": 0.05, "weight_decay": 0.2}
    tx = adam(learning_rate=0.3, clip_norm=0.5, **told)
    w, first, second = 2.0, 0.0, 0.0
    params = {"w": jnp.array([w, 0.0])}
    state = tx.init(params)
    for k, slope in enumerate((0.1, -3.0, 0.2), 1):
        update, state = tx.update({"w": jnp.array([slope, 0.0])}, state, params)
        params = optax.apply_updates(params, update)
        slope = np.clip(slope, -0.5, 0.5)
        first = 0.7 * first + 0.3 * slope
        second = 0.9 * second + 0.1 * slope**2
        move = first / (1 - 0.7**k) / (np.sqrt(second / (1 - 0.9**k)) + 0.05)
        w -= 0.3 * (move + 0.2 * w)
        np.testing.assert_allclose(params["w"], [w, 0], rtol=1e-5)


def test_the_rate_rises_from_zero_and_falls_as_a_cosine():
    tx = adam(learning_rate=0.5, warmup_steps=4, decay_steps=12)
    params = {"w": jnp.zeros(())}
    state, moves = tx.init(params), []
    for _ in range(13):
        update, state = tx.update({"w": jnp.ones(())}, state, params)
        moves.append(-float(update["w"]))
    # The moments of a constant gradient are exact, so that each move is the rate.
    rise = 0.5 * np.arange(4) / 4
    fall = 0.25 * (1 + np.cos(np.pi * np.arange(9) / 8))
    np.testing.assert_allclose(moves, [*rise, *fall], atol=1e-5)


def test_clipping_is_by_the_global_norm():
    tx = optax.chain(*[adam(learning_rate=1.0, clip_norm=1.0)])
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    _, state = tx.update(grads, tx.init(grads), grads)
    mean = optax.tree.get(state, "mu")
    np.testing.assert_allclose(mean["a"], 0.1 * 3 / 5, rtol=1e-6)
    np.testing.assert_allclose(mean["b"], 0.1 * 4 / 5, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0, 0.0])
def test_clipping_is_optax_s(factor):
    """With arrays on either side of the size from which each is summed alone."""
    keys = dict(enumerate(jax.random.split(jax.random.key(0), 3)))
    shapes = {0: (3, 4), 1: (65, 64), 2: ()}
    grads = {i: factor * jax.random.normal(keys[i], shapes[i]) for i in shapes}
    np.testing.assert_allclose(
        clipping.global_norm(grads), optax.tree.norm(grads), rtol=1e-6
    )
    ours, theirs = (f(5.0) for f in (clip_by_global_norm, optax.clip_by_global_norm))
    assert ours.init(grads) == theirs.init(grads)  # or old checkpoints would not load
    clipped, expected = (tx.update(grads, tx.init(grads))[0] for tx in (ours, theirs))
    for i in shapes:
        np.testing.assert_allclose(clipped[i], expected[i], rtol=1e-5)


def test_the_norm_of_small_or_of_large_arrays_alone():
    for shape in ((5,), (5000,)):
        assert abs(clipping.global_norm([jnp.ones(shape)]) ** 2 - shape[0]) < 1e-3


def test_the_average_is_a_float32_copy():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = init_state(jax.random.key(0), params, optax.sgd(1.0), ())
    assert state.ema_params["w"].dtype == jnp.float32
    params = {"w": jnp.ones(3)}
    state = init_state(jax.random.key(0), params, optax.sgd(1.0), ())
    assert (
        state.ema_params["w"].unsafe_buffer_pointer()
        != params["w"].unsafe_buffer_pointer()
    )

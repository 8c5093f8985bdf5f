"""What must hold of schedules, transitions and losses, whatever the code looks like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import importance, likelihood, losses, schedules, transitions
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.gaussians import Gaussian, discretized_log_likelihood
from ddpm_jax.diffusion.guidance import clip_static

PREDICTIONS = (transitions.from_eps, transitions.from_x0, transitions.from_v)
SHORT = schedules.linear_betas(10, start=0.01, end=0.4)


def normal(seed, shape=(4, 3, 3, 2)):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def schedule():
    return schedules.make_schedule(SHORT)


# Schedules


@pytest.mark.parametrize(
    ("betas", "line"),
    [
        (
            np.ones((2, 2)) / 2,
            r"betas must be a non-empty vector, e.g. linear_betas\(1000\); got",
        ),
        (np.array([]), "non-empty vector"),
        (np.array([0.1, 1.2]), r"betas must lie in \(0, 1\)"),
        (np.array([0.0, 0.1]), r"betas must lie in \(0, 1\)"),
        (np.array([1.0, 0.1]), "the last one in"),
        (np.array([0.1, np.nan]), r"betas must lie in \(0, 1\)"),
        (np.array([1e-40, 0.1]), "the first beta must be at least 1e-15"),
        (np.full(1000, 0.5), "too large for so many steps: from step 252 of 1000 on"),
        (np.append(np.full(999, 0.5), 1.0), "from step 252 of 1000 on"),
    ],
)
def test_betas_that_are_none(betas, line):
    with pytest.raises(ValueError, match=line):
        schedules.make_schedule(betas)


@pytest.mark.parametrize("kept", [[3, 1], [1, 1], [-1, 2], [0, 10], [0.5, 1.5], []])
def test_timesteps_that_are_none(kept):
    with pytest.raises(ValueError, match="timesteps must"):
        schedules.make_schedule(SHORT, timesteps=np.array(kept))


def test_a_respaced_chain_has_the_same_marginals():
    kept = schedules.spaced_timesteps(1000, 17, spacing="uniform")
    whole = schedules.make_schedule(schedules.cosine_betas())
    short = schedules.make_schedule(schedules.cosine_betas(), timesteps=kept)
    np.testing.assert_allclose(
        short.alphas_cumprod, whole.alphas_cumprod[kept], rtol=1e-6
    )
    np.testing.assert_array_equal(short.timesteps, kept)
    assert short.num_steps == 17


def test_keeping_every_step_changes_nothing():
    whole = schedules.make_schedule(SHORT)
    same = schedules.make_schedule(SHORT, timesteps=np.arange(10))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), whole, same
    )


def test_zero_terminal_snr_moves_the_last_step_only_to_zero():
    betas = schedules.zero_terminal_snr(schedules.linear_betas())
    product = np.cumprod(1 - betas)
    assert product[-1] == 0 and betas[-1] == 1
    np.testing.assert_allclose(product[0], 1 - 1e-4, rtol=1e-12)
    assert np.all(np.diff(product) < 0)


def test_a_schedule_is_a_pytree_of_float32_tables(schedule):
    leaves = jax.tree.leaves(schedule)
    assert {x.dtype for x in leaves} == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert all(x.shape == (10,) for x in leaves)
    np.testing.assert_allclose(schedule.beta(jnp.array([0, 9])), [0.01, 0.4], rtol=1e-6)


@pytest.mark.parametrize("t", [-1, 10])
def test_a_step_outside_the_chain_is_never_silent(schedule, t):
    x = normal(0)
    calls = {
        "beta": lambda t: schedule.beta(t),
        "q_step": lambda t: transitions.q_step(schedule, x, t, x),
        "q_sample": lambda t: transitions.q_sample(schedule, x, t, x),
        "q_mean_variance": lambda t: transitions.q_mean_variance(schedule, x, t).mean,
        "q_posterior": lambda t: transitions.q_posterior(schedule, x, x, t).mean,
        "p_mean_variance": lambda t: (
            transitions.p_mean_variance(
                schedule, x, t, x, variance=transitions.fixed_small
            )[0].log_variance
        ),
        "loss": lambda t: losses.vlb_term(schedule, x, x, t, x, x),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"a step must lie in 0\.\.9"):
            call(jnp.array(t))
        assert np.all(np.isnan(jax.jit(call)(jnp.array(t)))), name
        with pytest.raises(ValueError, match="a step must be an integer"):
            call(jnp.array(1.0))


# The forward process and its posterior


def test_single_steps_compose_to_the_marginal(schedule):
    """Mean and variance of x_t, pushed through q_step one step at a time."""
    x0, zero = normal(1), jnp.zeros((4, 3, 3, 2))
    mean, variance = x0, 0.0
    for t in range(10):
        mean = transitions.q_step(schedule, mean, t, zero)
        beta = SHORT[t]
        variance = (1 - beta) * variance + beta
        law = transitions.q_mean_variance(schedule, x0, jnp.array(t))
        np.testing.assert_allclose(mean, law.mean, atol=1e-5)
        np.testing.assert_allclose(variance, law.variance, rtol=1e-5)
        np.testing.assert_allclose(np.log(variance), law.log_variance, atol=1e-5)


def test_noise_is_scaled_by_the_root_of_beta(schedule):
    zero, one = jnp.zeros((4, 1)), jnp.ones((4, 1))
    t = jnp.array([0, 3, 7, 9])
    step = transitions.q_step(schedule, zero, t, one)[:, 0]
    np.testing.assert_allclose(step, np.sqrt(SHORT[np.array(t)]), rtol=1e-6)


def log_density(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def test_bayes_rule(schedule):
    """q(x_t | x_{t-1}) q(x_{t-1} | x_0) = q(x_{t-1} | x_t, x_0) q(x_t | x_0)."""
    x0, before, now = (np.asarray(normal(s), np.float64) for s in (1, 2, 3))
    product = np.cumprod(1 - SHORT)
    for t in range(1, 10):
        posterior = transitions.q_posterior(
            schedule, jnp.asarray(x0, float), jnp.asarray(now, float), jnp.array(t)
        )
        left = log_density(now, np.sqrt(1 - SHORT[t]) * before, SHORT[t])
        left += log_density(before, np.sqrt(product[t - 1]) * x0, 1 - product[t - 1])
        mean, variance = (
            np.asarray(v, np.float64) for v in (posterior.mean, posterior.variance)
        )
        right = log_density(before, mean, variance)
        right += log_density(now, np.sqrt(product[t]) * x0, 1 - product[t])
        np.testing.assert_allclose(left, right, atol=2e-3, rtol=2e-4)
        precision = (1 - SHORT[t]) / SHORT[t] + 1 / (1 - product[t - 1])
        np.testing.assert_allclose(variance, 1 / precision, rtol=1e-5)


def test_the_posterior_at_the_first_step_is_the_image(schedule):
    x0, xt = normal(1), normal(2)
    posterior = transitions.q_posterior(schedule, x0, xt, jnp.array(0))
    np.testing.assert_allclose(posterior.mean, x0, atol=1e-6)
    assert np.all(posterior.variance == 0)
    assert np.all(np.isfinite(posterior.log_variance))


# Predictions and the reverse process


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_predictions_are_one_triple(schedule, predict):
    x0, noise = normal(1), normal(2)
    t = jnp.array([0, 3, 7, 9])
    xt = transitions.q_sample(schedule, x0, t, noise)
    truth = transitions.Prediction(
        x0, noise, transitions.velocity(schedule, x0, t, noise)
    )
    field = {PREDICTIONS[0]: "eps", PREDICTIONS[1]: "x0", PREDICTIONS[2]: "v"}[predict]
    ours = predict(schedule, xt, t, getattr(truth, field))
    for name in ("x0", "eps", "v"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(truth, name), atol=3e-5, err_msg=name
        )


def test_without_clipping_the_mean_is_algorithm_2(schedule):
    xt, eps = normal(1), normal(2)
    t = jnp.array([0, 3, 7, 9])
    gaussian, _ = transitions.p_mean_variance(schedule, xt, t, eps)
    beta = SHORT[np.array(t)].reshape(-1, 1, 1, 1)
    bar = np.cumprod(1 - SHORT)[np.array(t)].reshape(-1, 1, 1, 1)
    expected = (xt - beta / np.sqrt(1 - bar) * eps) / np.sqrt(1 - beta)
    np.testing.assert_allclose(gaussian.mean, expected, atol=1e-5)


def test_the_last_step_returns_the_clipped_prediction_without_noise(schedule):
    xt, eps = 5 * normal(1), normal(2)
    gaussian, prediction = transitions.p_mean_variance(
        schedule, xt, jnp.array(0), eps, clip=clip_static(1.0)
    )
    drawn = transitions.p_sample(gaussian, jnp.array(0), normal(3))
    assert np.abs(prediction.x0).max() == 1
    np.testing.assert_allclose(drawn, prediction.x0, atol=1e-6)


def test_noise_enters_with_the_standard_deviation(schedule):
    zero = jnp.zeros((4, 1))
    t = jnp.array([0, 1, 5, 9])
    gaussian, _ = transitions.p_mean_variance(
        schedule, zero, t, zero, variance=transitions.fixed_large
    )
    drawn = transitions.p_sample(gaussian, t, jnp.ones((4, 1)))[:, 0]
    np.testing.assert_allclose(drawn, [0, *np.sqrt(SHORT[[1, 5, 9]])], rtol=1e-5)


def test_a_learned_variance_lies_between_its_bounds(schedule):
    xt, t = normal(1), jnp.array([1, 3, 7, 9])
    ends = {
        -1.0: transitions.fixed_small(schedule, t, None, xt).log_variance,
        1.0: jnp.log(transitions.at(schedule.betas, t, xt)),
    }
    for v, expected in ends.items():
        output = jnp.concatenate([xt, jnp.full_like(xt, v)], -1)
        gaussian, _ = transitions.p_mean_variance(
            schedule, xt, t, output, variance=transitions.learned_range
        )
        np.testing.assert_allclose(
            gaussian.log_variance, jnp.broadcast_to(expected, xt.shape), rtol=1e-5
        )


def test_outputs_of_the_wrong_width_are_refused(schedule):
    x, t = normal(1), jnp.array(3)
    with pytest.raises(ValueError, match="or twice its channels"):
        transitions.p_mean_variance(schedule, x, t, x[..., :1])
    with pytest.raises(ValueError, match="twice the data's channels"):
        transitions.p_mean_variance(
            schedule, x, t, x, variance=transitions.learned_range
        )


def test_zero_terminal_snr_needs_v_or_x0():
    schedule = schedules.make_schedule(schedules.zero_terminal_snr(SHORT))
    x, t = normal(1), jnp.array([0, 3, 7, 9])
    for predict in (transitions.from_v, transitions.from_x0):
        gaussian, prediction = transitions.p_mean_variance(
            schedule, x, t, x, predict=predict
        )
        for value in (*gaussian, *prediction):
            assert np.all(np.isfinite(value))
    for call in (transitions.from_eps, jax.jit(lambda *a: transitions.from_eps(*a))):
        if call is transitions.from_eps:
            with pytest.raises(ValueError, match="predict v or x0"):
                call(schedule, x, t, x)
        else:  # a traced schedule cannot be read: the step without signal is NaN
            assert np.all(np.isnan(call(schedule, x, t, x).x0[3]))
    with pytest.raises(ValueError, match="predict v or x0"):
        jax.jit(lambda x: transitions.from_eps(schedule, x, t, x).x0)(x)


# Losses


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_a_perfect_network_has_no_simple_loss(schedule, predict):
    x0, noise, t = normal(1), normal(2), jnp.array([0, 3, 7, 9])
    v = transitions.velocity(schedule, x0, t, noise)
    perfect = dict(zip(PREDICTIONS, (noise, x0, v), strict=True))[predict]
    xt = transitions.q_sample(schedule, x0, t, noise)
    example = (schedule, x0, xt, t, noise)
    loss = losses.simple_loss(*example, perfect, predict=predict)
    assert loss.shape == (4,)
    np.testing.assert_array_equal(loss, 0)
    off = losses.simple_loss(*example, perfect + 0.5, predict=predict)
    np.testing.assert_allclose(off, 0.25, rtol=1e-5)


def test_the_three_predictions_of_one_error_have_one_weighted_loss(schedule):
    """An error in x_0, told as eps, x0 or v, weighs the same under min-SNR and P2."""
    x0, noise, wrong = normal(1), normal(2), normal(3)
    t = jnp.array([1, 3, 7, 9])
    xt = transitions.q_sample(schedule, x0, t, noise)
    told = transitions.from_x0(schedule, xt, t, wrong)
    for make in (losses.min_snr, losses.p2):
        values = [
            losses.simple_loss(
                *(schedule, x0, xt, t, noise, output),
                predict=predict,
                weight=make(predict=predict),
            )
            for predict, output in zip(
                PREDICTIONS, (told.eps, told.x0, told.v), strict=True
            )
        ]
        np.testing.assert_allclose(values[1], values[0], rtol=1e-4)
        np.testing.assert_allclose(values[2], values[0], rtol=1e-4)


def test_weights_are_those_of_their_papers(schedule):
    """As factors of the error in x_0, whose weight in the simple loss is the SNR."""
    t = jnp.arange(10)
    bar = np.cumprod(1 - SHORT)
    snr = bar / (1 - bar)
    assert snr.min() < 5 < snr.max()
    of_x0 = {"predict": transitions.from_x0}
    for weight, expected in (
        (losses.min_snr(5.0, **of_x0), np.minimum(snr, 5)),
        (losses.p2(0.5, 2.0, **of_x0), snr / np.sqrt(2 + snr)),
    ):
        np.testing.assert_allclose(weight(schedule, t), expected, rtol=1e-5)


def test_weights_are_finite_where_there_is_no_signal():
    schedule = schedules.make_schedule(schedules.zero_terminal_snr(SHORT))
    t = jnp.arange(10)
    for make in (losses.min_snr, losses.p2):
        for predict in PREDICTIONS:
            weight = make(predict=predict)(schedule, t)
            assert np.all(np.isfinite(weight)) and np.all(weight >= 0)


def test_the_bound_of_the_hybrid_loss_trains_the_variance_alone(schedule):
    x0 = jnp.round(normal(1)).clip(-1, 1)
    noise, t = normal(2), jnp.array([0, 3, 7, 9])
    xt = transitions.q_sample(schedule, x0, t, noise)

    def hybrid(mean_part, variance_part):
        output = jnp.concatenate([mean_part, variance_part], -1)
        return losses.hybrid_loss(schedule, x0, xt, t, noise, output).sum()

    def simple(mean_part):
        return losses.simple_loss(schedule, x0, xt, t, noise, mean_part).sum()

    parts = normal(3), normal(4)
    mean_gradient, variance_gradient = jax.grad(hybrid, argnums=(0, 1))(*parts)
    np.testing.assert_allclose(mean_gradient, jax.grad(simple)(parts[0]), rtol=1e-5)
    assert np.abs(variance_gradient).min(axis=(1, 2, 3)).max() > 0


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("variance", [transitions.learned, transitions.learned_range])
def test_the_hybrid_loss_is_the_weighted_sum_of_its_parts(schedule, predict, variance):
    x0 = jnp.round(normal(1)).clip(-1, 1)
    noise, t = normal(2), jnp.array([0, 3, 7, 9])
    xt = transitions.q_sample(schedule, x0, t, noise)
    output = jnp.concatenate([normal(3), normal(4)], -1)
    reads = {"predict": predict}
    weighs = {"weight": losses.min_snr(predict=predict)}
    example = (schedule, x0, xt, t, noise, output)
    simple = losses.simple_loss(*example, **reads, **weighs)
    vlb = losses.vlb_term(*example, **reads, variance=variance)
    for given, factor in (({}, 10 / 1000), ({"vlb_weight": 3.0}, 3.0)):
        found = losses.hybrid_loss(
            *example, **reads, **weighs, **given, variance=variance
        )
        np.testing.assert_allclose(found, simple + factor * vlb, rtol=1e-5)


def test_a_clipped_term_is_that_of_the_clipped_prediction(schedule):
    x0 = jnp.round(normal(1)).clip(-1, 1)
    xt, t = normal(2), jnp.array([0, 3, 7, 9])
    wild, read = 3 * normal(3), {"predict": transitions.from_x0}
    example = (schedule, x0, xt, t, normal(4))
    clipped = losses.vlb_term(*example, wild, **read, clip=clip_static())
    tame = losses.vlb_term(*example, jnp.clip(wild, -1, 1), **read)
    np.testing.assert_array_equal(clipped, tame)
    assert np.abs(clipped - losses.vlb_term(*example, wild, **read)).min()


def test_a_bound_clips_and_tells_the_network_the_original_steps():
    kept = np.array([3, 6, 9])
    chain = schedules.make_schedule(SHORT, timesteps=kept)
    told = []

    def denoise(x, t):
        jax.debug.callback(lambda t: told.append(int(t[0])), t)
        return 100 * x  # far beyond what an image may be

    x0 = jnp.round(normal(1)).clip(-1, 1)
    key = jax.random.key(0)
    clipped = denoiser(denoise, clip=clip_static())
    bound = likelihood.bits_per_dim(key, clipped, chain, x0)
    jax.effects_barrier()
    assert sorted(told) == kept.tolist()
    assert np.max(bound.x0_mse) <= 4


def test_a_chain_of_one_step_has_the_variance_of_its_beta():
    chain = schedules.make_schedule(SHORT[-1:])
    for name in ("posterior_log_variance_clipped", "log_betas_clipped"):
        np.testing.assert_allclose(getattr(chain, name), np.log(0.4), rtol=1e-6)


@pytest.mark.parametrize(
    "log_variance", [-500.0, -100.0, -60.0, -20.0, -8.0, 0.0, 20.0]
)
def test_gradients_of_the_decoder_are_finite(log_variance):
    x = jnp.array([-1.0, -0.998, 0.0, 0.998, 1.0])
    for mean in (-50.0, -1.0, 0.0, 1.0, 50.0):

        def total(mean, log_variance):
            law = Gaussian(mean, jnp.exp(log_variance), log_variance)
            return discretized_log_likelihood(x, law).sum()

        arguments = jnp.full(5, mean), jnp.full(5, log_variance)
        value, gradients = jax.value_and_grad(total, argnums=(0, 1))(*arguments)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in gradients)


def test_the_256_bins_have_probability_one():
    x = jnp.arange(256) / 127.5 - 1
    for mean, scale in ((0.1, 0.02), (-0.9, 0.3), (0.99, 0.005)):
        full = jnp.full(256, 2 * np.log(scale))
        law = Gaussian(jnp.full(256, mean), jnp.exp(full), full)
        total = np.exp(np.asarray(discretized_log_likelihood(x, law), np.float64)).sum()
        np.testing.assert_allclose(total, 1, atol=1e-5)


# The bound of Gaussian data, where everything is known


def gaussian_denoiser(schedule, scale):
    """eps for data N(0, scale^2): E[eps | x_t], by Bayes' rule."""

    def denoise(x, t):
        bar = transitions.at(schedule.alphas_cumprod, t, x)
        return jnp.sqrt(1 - bar) * x / (scale**2 * bar + 1 - bar)

    return denoise


def test_the_divergences_of_gaussian_data_are_exact(schedule):
    """E KL(q(x_{t-1} | x_t, x_0) || p) under x_0 ~ N(0, s^2), p the optimal mean.

    With fixed_small the two variances are equal and the divergence is the squared
    distance of the means: coef1^2 Var(x_0 | x_t) / (2 beta~_t), Var(x_0 | x_t) being
    s^2 (1 - bar) / (s^2 bar + 1 - bar).
    """
    scale, count = 0.5, 40_000
    x0 = scale * normal(5, (count, 1))
    network = gaussian_denoiser(schedule, scale)
    denoise = denoiser(network, variance=transitions.fixed_small)
    # Traced, since a Gaussian has no bounds.
    bound = jax.jit(likelihood.bits_per_dim)(jax.random.key(6), denoise, schedule, x0)
    bar = np.cumprod(1 - SHORT)
    prev = np.append(1.0, bar[:-1])
    coef1 = SHORT * np.sqrt(prev) / (1 - bar)
    tilde = SHORT * (1 - prev) / (1 - bar)
    left = scale**2 * (1 - bar) / (scale**2 * bar + 1 - bar)
    exact = coef1[1:] ** 2 * left[1:] / (2 * tilde[1:]) / np.log(2)
    terms = np.asarray(bound.terms)[:, 1:]
    error = terms.std(0) / np.sqrt(count)
    assert np.all(np.abs(terms.mean(0) - exact) < 5 * error)
    assert np.all(error < 0.02 * exact)
    np.testing.assert_allclose(np.asarray(bound.x0_mse).mean(0), left, rtol=0.05)
    mean2 = bar[-1] * np.asarray(x0, np.float64)[:, 0] ** 2
    prior = 0.5 * (mean2 - bar[-1] - np.log(1 - bar[-1])) / np.log(2)
    np.testing.assert_allclose(bound.prior, prior, rtol=1e-4, atol=1e-7)


def test_the_bound_of_the_exact_reverse_chain_is_the_likelihood():
    """With the exact reverse law the bound is tight: bits/dim = -log2 p(x_0).

    For Gaussian data the reverse law is Gaussian, with the posterior mean at E[x_0|x_t]
    and variance beta~ + coef1^2 Var(x_0 | x_t). The decoder of a wide Gaussian and bins
    of 2/255 is the density times 2/255.
    """
    betas = schedules.linear_betas(100, start=1e-3, end=0.2)
    schedule = schedules.make_schedule(betas)
    scale = 0.25
    bar = np.cumprod(1 - betas)
    prev = np.append(1.0, bar[:-1])
    coef1 = betas * np.sqrt(prev) / (1 - bar)
    left = scale**2 * (1 - bar) / (scale**2 * bar + 1 - bar)
    exact = betas * (1 - prev) / (1 - bar) + coef1**2 * left
    table = jnp.log(jnp.asarray(exact, float))

    def exact_variance(schedule, t, values, like):
        log_variance = transitions.at(table, t, like)
        return transitions.Variance(jnp.exp(log_variance), log_variance)

    levels = np.arange(0, 256, 5) / 127.5 - 1
    inside = levels[np.abs(levels) < 0.9]
    x0 = jnp.tile(jnp.asarray(inside, float)[:, None], (1, 4000))[..., None]
    network = gaussian_denoiser(schedule, scale)
    denoise = denoiser(network, variance=exact_variance)
    bound = likelihood.bits_per_dim(jax.random.key(7), denoise, schedule, x0)
    density = np.exp(-0.5 * (inside / scale) ** 2) / np.sqrt(2 * np.pi) / scale
    # Each row averages 4000 draws of the noise for one image.
    np.testing.assert_allclose(
        bound.total, -np.log2(density * 2 / 255), atol=0.05, rtol=0.01
    )


def test_an_examples_bound_does_not_depend_on_its_batch(schedule):
    keys = jax.random.split(jax.random.key(0), 4)
    x0 = jnp.round(normal(1)).clip(-1, 1)
    denoise = gaussian_denoiser(schedule, 0.5)
    whole = likelihood.bits_per_dim(keys, denoise, schedule, x0)
    part = likelihood.bits_per_dim(keys[2:3], denoise, schedule, x0[2:3])
    np.testing.assert_allclose(whole.terms[2:3], part.terms, rtol=1e-5)
    assert whole.terms.shape == (4, 10)
    np.testing.assert_allclose(whole.total, whole.prior + whole.terms.sum(1), rtol=1e-6)


# The sampling of training steps


def test_uniform_steps_have_weight_one():
    sampler = importance.uniform_steps(7)
    keys = jax.random.split(jax.random.key(0), 7000)
    t, weight = sampler.draw(sampler.init(), keys)
    np.testing.assert_allclose(np.bincount(t, minlength=7), 1000, atol=150)
    np.testing.assert_array_equal(weight, 1)


def test_importance_sampling_is_uniform_until_warm_then_proportional():
    sampler = importance.loss_second_moment(4, history=3, uniform_fraction=0.0)
    state, t = sampler.init(), jnp.arange(4)
    scale = jnp.array([1.0, 2.0, 3.0, 4.0])
    for _ in range(3):
        p = importance.step_probabilities(state, uniform_fraction=0.0)
        np.testing.assert_allclose(p, 0.25)
        state = sampler.update(state, t, scale)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn, weight = sampler.draw(state, keys)
    np.testing.assert_allclose(
        np.bincount(drawn) / 20_000, scale / 10, atol=5 * 0.5 / np.sqrt(20_000)
    )
    # The weight undoes the choice: the mean of any function of t is the uniform one.
    value = np.asarray(drawn, float) ** 2
    np.testing.assert_allclose(
        np.mean(value * weight), np.mean(np.arange(4.0) ** 2), rtol=0.03
    )


def test_the_history_keeps_the_last_losses_of_each_step():
    sampler = importance.loss_second_moment(3, history=2)
    state = sampler.init()
    state = sampler.update(state, jnp.array([1, 1, 0]), jnp.array([5.0, 6.0, 1.0]))
    assert list(state.counts) == [1, 2, 0]
    assert sorted(np.asarray(state.losses[1])) == [5.0, 6.0]
    # Five of one step in one batch: the last two stay, whatever the layout.
    t = jnp.array([1, 1, 2, 1, 1, 1])
    state = sampler.update(state, t, jnp.array([1.0, 2.0, 9.0, 3.0, 4.0, 7.0]))
    assert sorted(np.asarray(state.losses[1])) == [4.0, 7.0]
    assert list(state.counts) == [1, 7, 1]


@pytest.mark.parametrize(
    ("betas", "ends"),
    [
        (schedules.linear_betas, {"start": 0.002, "end": 0.4}),
        (schedules.quadratic_betas, {"start": 0.002, "end": 0.4}),
        (schedules.warmup_betas, {"start": 0.002, "end": 0.4}),
        (schedules.sigmoid_betas, {"start": 0.002, "end": 0.4}),
        (schedules.constant_betas, {"value": 0.4}),
    ],
)
def test_a_short_chain_on_the_default_ends_is_warned_of(betas, ends):
    """50 steps on them leave a lot of x_0, e.g. linear ones sqrt(0.60) of it."""
    assert len(betas(1000)) == 1000  # warnings are errors, and this gives none
    listed = ", ".join(f"{name}={value}" for name, value in ends.items())
    with pytest.warns(UserWarning, match=f"are {listed};") as caught:
        short = betas(50)
    assert f"holds {np.sqrt(np.prod(1 - short)):.0%} of x_0" in str(caught[0].message)
    assert caught[0].filename == __file__ and len(caught) == 1
    assert np.sqrt(np.prod(1 - betas(50, **ends))) < 0.1
    default = {"start": 1e-4, "end": 0.02, "value": 0.02}
    same = {name: default[name] for name in ends}
    np.testing.assert_array_equal(betas(50, **same), short)
    with pytest.warns(UserWarning, match="alone: cosine_betas leaves nothing of it"):
        betas(5)  # where no end below 1 would do

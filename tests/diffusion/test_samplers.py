"""The laws that every sampler keeps, in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import build
from ddpm_jax.config import ScheduleConfig
from ddpm_jax.diffusion import transitions
from ddpm_jax.diffusion.denoiser import Estimate, denoiser
from ddpm_jax.diffusion.guidance import clip_static
from ddpm_jax.diffusion.parametrisations import from_eps, from_v, from_x0
from ddpm_jax.diffusion.samplers import (
    ddim,
    ddim_invert,
    ddpm,
    ddpm_update,
    dpm_solver_pp,
    dpm_solver_pp_update,
    heun,
    sample,
    sample_iter,
    unipc,
    unipc_correct,
)
from ddpm_jax.diffusion.samplers.heun import churned
from ddpm_jax.diffusion.schedules import (
    linear_betas,
    make_schedule,
    spaced_timesteps,
    zero_terminal_snr,
)
from ddpm_jax.diffusion.solver_spacing import (
    interpolated_schedule,
    karras_positions,
    log_snr_positions,
)
from ddpm_jax.diffusion.transitions import Variance

BETAS = linear_betas(1000)
LOG_A = np.cumsum(np.log1p(-BETAS))
FULL = make_schedule(BETAS)
SHORT = make_schedule(BETAS, timesteps=spaced_timesteps(1000, 10, spacing="trailing"))
POINT = np.linspace(-0.9, 0.9, 12, dtype=np.float32).reshape(3, 4)

SAMPLERS = {
    "ddpm": ddpm(),
    "ddim": ddim(),
    "ddim eta": ddim(eta=0.5),
    "1": dpm_solver_pp(order=1),
    "2M": dpm_solver_pp(),
    "3M": dpm_solver_pp(order=3, lower_order_final=False),
    "SDE 1": dpm_solver_pp(order=1, stochastic=True),
    "SDE 2M": dpm_solver_pp(stochastic=True),
    "heun": heun(),
    "churn": heun(churn=4.0, trained_on=FULL),
    "unipc": unipc(),
}
OUTPUTS = {from_eps: 1, from_x0: 0, from_v: 2}


def levels(t, x):
    """(alpha, sigma) of the training chain at any real step."""
    steps = jnp.arange(1000, dtype=x.dtype)
    log_a = jnp.interp(t.astype(x.dtype), steps, jnp.asarray(LOG_A, x.dtype))
    log_a = log_a.reshape(log_a.shape + (1,) * (x.ndim - 1))
    return jnp.exp(0.5 * log_a), jnp.sqrt(-jnp.expm1(log_a))


def said(predict, x0, eps, alpha, sigma):
    return (x0, eps, alpha * eps - sigma * x0)[OUTPUTS[predict]]


def point_model(predict):
    def denoise(x, t):
        alpha, sigma = levels(t, x)
        return said(predict, POINT, (x - alpha * POINT) / sigma, alpha, sigma)

    return denoise


def normal_model(spread, predict=from_eps, bend=0.0):
    """The exact network for data N(0, spread^2), and a disturbance."""

    def denoise(x, t):
        alpha, sigma = levels(t, x)
        eps = sigma * x / (spread**2 * alpha**2 + sigma**2) + bend * jnp.sin(3 * x)
        return said(predict, (x - sigma * eps) / alpha, eps, alpha, sigma)

    return denoise


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_point_mass_comes_back(name):
    denoise, sampler = point_model(from_eps), SAMPLERS[name]
    x0 = sample(jax.random.key(0), denoise, SHORT, (3, 4), sampler=sampler)
    np.testing.assert_allclose(x0, POINT, atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "ddim eta", "3M", "SDE 2M", "churn", "unipc"])
def test_every_prediction_takes_the_same_path(name):
    key, paths = jax.random.key(1), []
    for predict in OUTPUTS:
        sampler = SAMPLERS[name]
        denoise = denoiser(normal_model(0.5, predict, bend=0.05), predict=predict)
        chain = sample_iter(key, denoise, SHORT, (2, 3), sampler=sampler, every=5)
        paths.append([x for _, x in chain])
    # x_0 from x_T by eps is divided by alpha = 0.006.
    np.testing.assert_allclose(paths[0], paths[1], atol=5e-4)
    np.testing.assert_allclose(paths[0], paths[2], atol=5e-4)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "2M", "heun", "unipc"])
def test_a_learned_variance_is_read_or_left_alone(name):
    plain = normal_model(0.5)

    def doubled(x, t):
        return jnp.concatenate([plain(x, t), jnp.full_like(x, -1.0)], axis=-1)

    def draw(network, rule):
        denoise = denoiser(network, variance=rule)
        key, sampler = jax.random.key(2), SAMPLERS[name]
        return sample(key, denoise, SHORT, (2, 2, 3), sampler=sampler)

    x0 = draw(plain, transitions.fixed_small)
    # f = 0 is the smallest variance of the range
    for rule in (transitions.fixed_small, transitions.learned_range):
        np.testing.assert_allclose(x0, draw(doubled, rule), atol=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ddim eta", "3M", "SDE 2M", "unipc"])
def test_zero_terminal_snr(name):
    """From pure noise a network of v walks on; every sampler reaches the point."""
    betas = zero_terminal_snr(BETAS)
    kept = spaced_timesteps(1000, 10, spacing="trailing")
    schedule = make_schedule(betas, timesteps=kept)
    alpha_bar = jnp.asarray(np.cumprod(1 - betas), jnp.float32)

    def denoise(x, t):
        a = alpha_bar[t][:, None]
        alpha, sigma = jnp.sqrt(a), jnp.sqrt(1 - a)
        return alpha * (x - alpha * POINT) / sigma - sigma * POINT

    read, sampler = denoiser(denoise, predict=from_v), SAMPLERS[name]
    x0 = sample(jax.random.key(0), read, schedule, (3, 4), sampler=sampler)
    np.testing.assert_allclose(x0, POINT, atol=2e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_is_refused_with_eps(name):
    schedule = make_schedule(zero_terminal_snr(linear_betas(10, start=0.1, end=0.2)))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        denoise = normal_model(0.5)
        sample(jax.random.key(0), denoise, schedule, (1, 2), sampler=SAMPLERS[name])


def test_heun_refuses_zero_terminal_snr():
    schedule = make_schedule(zero_terminal_snr(linear_betas(10, start=0.1, end=0.2)))
    with pytest.raises(ValueError, match="heun cannot start from zero terminal SNR"):
        heun().init(schedule, jnp.zeros((1, 2)))


@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("rule", [transitions.fixed_small, transitions.fixed_large])
def test_normal_data_have_the_law_of_algorithm_2(rule, spread):
    """Every step of the chain, as mean and noise scale, and the variance they lead to.

    With eps = sigma x / w, w = s^2 alpha_bar + 1 - alpha_bar, algorithm 2 reads
    x' = (1 - beta / w) / sqrt(1 - beta) x + sigma z.
    """
    steps = jnp.arange(1000)
    ones, zeros = jnp.ones((1000, 1)), jnp.zeros((1000, 1))
    output = normal_model(spread)(ones, steps)
    said = from_eps(FULL, ones, steps, output)
    variance = rule(FULL, steps, None, ones)
    estimate = Estimate(said.x0, said.eps, variance)
    gain = ddpm_update(FULL, ones, steps, estimate, zeros)[:, 0]
    nothing = Estimate(zeros, zeros, variance)
    sigma = ddpm_update(FULL, zeros, steps, nothing, ones)[:, 0]

    a = np.exp(LOG_A)
    a_prev = np.append(1, a[:-1])
    expected = (1 - BETAS / (spread**2 * a + 1 - a)) / np.sqrt(1 - BETAS)
    np.testing.assert_allclose(gain, expected, rtol=2e-5)
    variance = BETAS.copy()
    if rule is transitions.fixed_small:
        variance = BETAS * (1 - a_prev) / (1 - a)
    variance[0] = 0
    np.testing.assert_allclose(np.square(sigma), variance, rtol=2e-5)

    reached = 1.0
    for g, v in zip(expected[::-1], variance[::-1], strict=True):
        reached = g**2 * reached + v
    # beta_t is the right variance for N(0, I), where the chain is stationary until
    # the last step, which adds no noise.
    if spread == 1 and rule is transitions.fixed_large:
        np.testing.assert_allclose(reached, 1 - BETAS[0], rtol=1e-12)
    denoise = denoiser(normal_model(spread), variance=rule)
    drawn = sample(jax.random.key(3), denoise, FULL, (64, 256))
    # 16,384 numbers: the standard error of a variance is 1.1 % of it.
    np.testing.assert_allclose(np.var(drawn), reached, rtol=0.045)
    np.testing.assert_allclose(np.mean(drawn), 0, atol=4.5 * spread / 128)


def test_ddim_with_eta_1_is_ancestral_sampling_with_the_small_variance():
    key, network = jax.random.key(4), normal_model(0.5, bend=0.05)
    for clip in (None, clip_static()):
        denoise = denoiser(network, variance=transitions.fixed_small, clip=clip)
        expected = sample(key, denoise, FULL, (2, 8), sampler=ddpm())
        x0 = sample(key, denoise, FULL, (2, 8), sampler=ddim(eta=1.0))
        np.testing.assert_allclose(x0, expected, atol=1e-4)


@pytest.mark.parametrize(("eta", "stochastic"), [(0.0, False), (1.0, True)])
def test_dpm_solver_of_order_1_is_ddim(eta, stochastic):
    key, denoise = jax.random.key(5), normal_model(0.5, bend=0.05)
    sampler = dpm_solver_pp(order=1, stochastic=stochastic)
    x0 = sample(key, denoise, SHORT, (2, 8), sampler=sampler)
    expected = sample(key, denoise, SHORT, (2, 8), sampler=ddim(eta=eta))
    np.testing.assert_allclose(x0, expected, atol=1e-5)


def test_the_stochastic_solver_of_order_2_keeps_the_marginals():
    """Its variance nears that of the data as the steps grow more."""
    errors = []
    for count in (10, 40):
        schedule = interpolated_schedule(BETAS, log_snr_positions(BETAS, count))
        sampler = dpm_solver_pp(stochastic=True, lower_order_final=False)
        x0 = sample(
            jax.random.key(6), normal_model(0.5), schedule, (128, 512), sampler=sampler
        )
        errors.append(abs(np.var(x0) / 0.25 - 1))
    assert errors[1] < 0.03 and errors[0] > 2 * errors[1]


def flow_error(sampler, count):
    """Distance at index 0 from the exact probability flow of N(0, 0.5^2) data.

    x_t = x_T sqrt(w_t / w_T), w = alpha_bar / 4 + 1 - alpha_bar.
    """
    schedule = interpolated_schedule(BETAS, karras_positions(BETAS, count + 1))
    start = np.linspace(-1, 1.5, 4)[:, None]
    chain = sample_iter(
        jax.random.key(0),
        normal_model(0.5),
        schedule,
        (4, 1),
        sampler=sampler,
        x_init=jnp.asarray(start, jnp.float32),
        every=count,
    )
    index, reached = next(chain)
    assert index == 1
    first, last = np.exp(LOG_A[[0, -1]])
    exact = start * np.sqrt((1 - 0.75 * first) / (1 - 0.75 * last))
    return np.abs(np.asarray(reached) - exact).max()


@pytest.mark.parametrize(
    ("name", "order"),
    # The corrector gives UniPC one order more than its name has; 3M, as the published
    # code writes it, shows 2 here.
    [("ddim", 1), ("2M", 2), ("3M", 3), ("heun", 2), ("unipc", 3)],
)
def test_order_of_convergence(name, order):
    sampler = SAMPLERS[name]
    errors = [flow_error(sampler, count) for count in (30, 60)]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.3, errors


@pytest.mark.parametrize(
    ("make", "orders"),
    [
        (dpm_solver_pp, (2, 2, 1, 1)),
        (partial(dpm_solver_pp, order=3), (3, 2, 1, 1)),
        (partial(dpm_solver_pp, order=3, lower_order_final=False), (3, 3, 3, 1)),
        (unipc, (2, 2, 1, 1)),
        (partial(unipc, lower_order_final=False), (2, 2, 2, 1)),
    ],
)
def test_the_order_is_lowered_towards_the_end(make, orders):
    """The steps into indices 2, 1, 0 and to clean data, against updates of an order.

    The network predicts the number of its call, whatever x is. UniPC starts from the
    corrected sample, which is 0 for a prediction and a start of 0.
    """
    schedule = make_schedule(BETAS, timesteps=np.array([0, 50, 200, 400, 700, 999]))
    sampler = make()
    state = sampler.init(schedule, jnp.zeros((1, 1)))
    past = []
    for i in range(5, -1, -1):
        said = jnp.full((1, 1), 1.0 + (5 - i) ** 2)
        before = state
        read = denoiser(lambda x, t, said=said: said, predict=from_x0)
        state, _ = sampler.step(jax.random.key(0), read, schedule, before, i)
        past = [said, *past][:3]
        base = getattr(state, "base", before.x)
        if i < 4:
            order = orders[3 - i]
            estimate = Estimate(said, said, Variance(said, said))
            expected = dpm_solver_pp_update(
                schedule, base, i, estimate, past=tuple(past[1:order])
            )
            np.testing.assert_allclose(state.x, expected, rtol=1e-5)
        if i == 0 and hasattr(state, "base"):
            corrected = unipc_correct(
                schedule, before.base, i, tuple(past), order=orders[2]
            )
            np.testing.assert_allclose(state.base, corrected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_solvers_with_their_own_spacing_err_less_than_ddim_with_as_many_calls(kind):
    """N(0, s^2) from x_T = 1 by the exact network should give s (0.5 and 1.5)."""
    config = ScheduleConfig(kind=kind)
    betas = build.make_betas(config)
    log_alpha = jnp.asarray(0.5 * np.cumsum(np.log1p(-betas)), jnp.float32)
    std = jnp.asarray([[0.5, 1.5]])

    def denoise(x, t):
        steps = jnp.arange(1000, dtype=x.dtype)
        alpha = jnp.exp(jnp.interp(t.astype(x.dtype), steps, log_alpha))[:, None]
        variance = 1 - alpha**2
        return jnp.sqrt(variance) * x / (alpha**2 * std**2 + variance)

    def errors(sampler, steps):
        schedule = build.make_schedule(config, steps=steps, sampler=sampler)
        start = jnp.ones((1, 2))
        key = jax.random.key(0)
        x = sample(key, denoise, schedule, (1, 2), sampler=sampler, x_init=start)
        return np.abs(np.asarray(x) - std)

    for calls in (8, 15, 30):
        bound = errors(ddim(), calls)
        for solver in (dpm_solver_pp, unipc):
            assert np.all(errors(solver(), calls) < 0.6 * bound), solver
        if calls >= 15:
            assert np.all(errors(heun(), (calls + 1) // 2) < 0.7 * bound)


@pytest.mark.parametrize("i", [1, 2, 3])
def test_solvers_are_exact_where_x0_is_quadratic_in_lambda(i):
    """x / sigma grows by the integral of exp(lambda) x_0(lambda), on any chain."""
    kept = np.array([0, 20, 100, 350, 500, 999])
    schedule = make_schedule(BETAS, timesteps=kept)
    lambdas = 0.5 * (LOG_A - np.log(-np.expm1(LOG_A)))[kept]
    sigma = np.sqrt(-np.expm1(LOG_A))[kept]

    def x0(lam):
        return 0.5 + 0.3 * lam - 0.2 * lam**2

    def integral(lam):
        return np.exp(lam) * (0.5 + 0.3 * (lam - 1) - 0.2 * (lam**2 - 2 * lam + 2))

    def exact(x, start, end):
        grown = integral(lambdas[end]) - integral(lambdas[start])
        return sigma[end] * (x / sigma[start] + grown)

    data = tuple(jnp.full((1, 1), x0(lambdas[k])) for k in range(i, i + 3))
    x = jnp.full((1, 1), 0.7)
    estimate = Estimate(data[0], x, Variance(x, x))
    reached = dpm_solver_pp_update(schedule, x, jnp.asarray(i), estimate, past=data[1:])
    np.testing.assert_allclose(reached, exact(0.7, i, i - 1), rtol=1e-4)
    reached = unipc_correct(schedule, x, jnp.asarray(i), data)
    np.testing.assert_allclose(reached, exact(0.7, i + 1, i), rtol=1e-4)


def test_the_first_correction_halves_the_slope():
    """Over a short step the mean of a line is its middle, to a sixth of the step."""
    schedule, i = make_schedule(BETAS), 500
    bar = np.cumprod(1 - BETAS)
    h = 0.5 * np.log(bar[i] / (1 - bar[i]) / (bar[i + 1] / (1 - bar[i + 1])))
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    reached = unipc_correct(schedule, zero, jnp.asarray(i), (one, zero, zero), order=1)
    expected = np.sqrt(bar[i]) * -np.expm1(-h) / 2
    np.testing.assert_allclose(reached, expected, rtol=h / 6)


def test_inversion_and_ddim_return_the_image():
    image = jnp.asarray(np.linspace(-1, 1, 16).reshape(2, 8), jnp.float32)
    denoise, errors = normal_model(0.5, bend=0.05), []
    for count in (10, 20, 50, 100):
        kept = spaced_timesteps(1000, count, spacing="ddim")
        schedule = make_schedule(BETAS, timesteps=kept)
        latent = ddim_invert(denoise, schedule, image)
        x0 = sample(
            jax.random.key(0),
            denoise,
            schedule,
            image.shape,
            sampler=ddim(),
            x_init=latent,
        )
        errors.append(np.sqrt(np.mean(np.square(x0 - image))))
    assert np.all(np.diff(errors) < 0) and errors[-1] < errors[0] / 7, errors


def test_inversion_of_a_point_mass_is_exact():
    """There eps is constant along the flow, whatever the steps."""
    eps = np.linspace(-2, 2, 12).reshape(3, 4)

    def denoise(x, t):
        return jnp.asarray(eps, x.dtype)

    latent = ddim_invert(denoise, SHORT, POINT)
    expected = transitions.q_sample(SHORT, POINT, jnp.asarray(9), eps)
    np.testing.assert_allclose(latent, expected, atol=1e-5)


def test_heun_asks_twice_a_step_and_is_told_real_steps_between():
    schedule = make_schedule(BETAS, timesteps=np.array([0, 300, 600, 999]))
    asked = []

    def denoise(x, t):
        jax.debug.callback(lambda t: asked.append(t[0]), t, ordered=True)
        return point_model(from_eps)(x, t)

    for sampler in (heun(), heun(churn=0.4, trained_on=FULL)):
        x0 = sample(jax.random.key(0), denoise, schedule, (3, 4), sampler=sampler)
        x0.block_until_ready()
    jax.effects_barrier()
    assert asked[:7] == [999, 600, 600, 300, 300, 0, 0] and asked[0].dtype == np.int32
    churned, reached = asked[7::2], asked[8::2]
    assert reached == [600, 300, 0]
    # sigma is raised by a tenth; the step told is where the training chain has it.
    assert churned[0] == 999
    for told, step in zip(churned[1:], (600, 300, 0), strict=True):
        alpha_bar = np.exp(np.interp(told, np.arange(1000), LOG_A))
        reference = np.exp(LOG_A[step])
        ratio = (1 / alpha_bar - 1) / (1 / reference - 1)
        np.testing.assert_allclose(np.sqrt(ratio), 1.1, rtol=1e-4)


def test_heun_takes_the_step_of_algorithm_1():
    """In y = x / alpha: Euler's step, and then the mean of the slopes at both ends."""
    schedule = make_schedule(BETAS, timesteps=np.array([100, 900]))
    model = normal_model(0.5, bend=0.05)
    start = jnp.asarray([[0.3, -1.2, 2.0]])
    chain = sample_iter(
        jax.random.key(0), model, schedule, (1, 3), sampler=heun(), x_init=start
    )
    alpha = np.exp(0.5 * LOG_A[[100, 900]])
    sigma = np.sqrt(np.expm1(-LOG_A[[100, 900]]))

    def slope(y, k, step):  # (y - x_0) / sigma is eps
        x = jnp.asarray(alpha[k] * y, jnp.float32)
        return np.asarray(model(x, jnp.full(1, step)), np.float64)

    y = np.asarray(start, np.float64) / alpha[1]
    first = slope(y, 1, 900)
    second = slope(y + (sigma[0] - sigma[1]) * first, 0, 100)
    y = y + (sigma[0] - sigma[1]) * (first + second) / 2
    np.testing.assert_allclose(next(chain)[1], alpha[0] * y, rtol=1e-4)


def test_churn_adds_the_noise_between_two_levels():
    ones, zeros = jnp.ones((1, 2)), jnp.zeros((1, 2))
    for i, churn, scale in ((5, 1.0, 1.1), (5, 100.0, np.sqrt(2)), (9, 1.0, 1.0)):
        options = {"churn": churn, "churn_noise": 1.5, "trained_on": FULL}
        noised, level = churned(SHORT, zeros, jnp.asarray(i), ones, **options)
        kept, _ = churned(SHORT, ones, jnp.asarray(i), zeros, **options)
        sigma = np.float64(SHORT.sqrt_recipm1_alphas_cumprod[i])
        raised = np.float64(level.sqrt_recipm1_alphas_cumprod[0])
        # No level lies beyond the chain's last.
        np.testing.assert_allclose(raised, sigma * scale, rtol=1e-5)
        alpha = 1 / np.sqrt(1 + raised**2)
        added = 1.5 * alpha * np.sqrt(max(raised**2 - sigma**2, 0))
        np.testing.assert_allclose(noised, added, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(kept, alpha * np.sqrt(1 + sigma**2), rtol=1e-5)


def test_churn_stays_within_its_range():
    key, denoise = jax.random.key(7), normal_model(0.5)
    outside = heun(churn=4.0, churn_range=(200.0, 300.0))
    x0 = sample(key, denoise, SHORT, (2, 3), sampler=outside)
    expected = sample(key, denoise, SHORT, (2, 3), sampler=heun())
    np.testing.assert_allclose(x0, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ddim(eta=1.5), r"eta must lie in \[0, 1\]; got 1.5"),
        (lambda: ddim(eta=-0.1), "eta must lie"),
        (lambda: ddim(eta=float("nan")), "eta must lie"),
        (lambda: dpm_solver_pp(order=4), r"order of DPM-Solver\+\+ must lie in 1..3"),
        (lambda: dpm_solver_pp(order=3, stochastic=True), "stochastic .* 1..2; got 3"),
        (lambda: heun(churn=-1.0), "churn must not be negative"),
    ],
)
def test_what_a_sampler_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()

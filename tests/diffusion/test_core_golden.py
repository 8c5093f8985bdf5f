"""Schedules, transitions and losses against numbers of the peers' code (tests/golden).

Float32 agrees to 1e-5, relative where a number is larger than 1; a last test runs the
file again in float64, where everything that was computed in float64 agrees to 1e-8.
"""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import losses, schedules, transitions
from ddpm_jax.diffusion.denoiser import denoiser
from ddpm_jax.diffusion.gaussians import (
    Gaussian,
    discretized_log_likelihood,
    kl_divergence,
)
from ddpm_jax.diffusion.guidance import clip_static
from ddpm_jax.diffusion.importance import loss_second_moment, step_probabilities
from ddpm_jax.diffusion.likelihood import step_terms

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
_spec = importlib.util.spec_from_file_location("pseudo", FOLDER / "pseudo_model.py")
pseudo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pseudo)

GOLDEN = np.load(FOLDER / "diffusion_core.npz")
X64 = jax.config.jax_enable_x64
TIGHT = {"rtol": 1e-8, "atol": 1e-8} if X64 else {"rtol": 1e-5, "atol": 1e-5}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}  # for what a peer computed in float32
LONG = TIGHT if X64 else {"rtol": 1e-4, "atol": 5e-4}  # sums over a whole chain

BETAS = {
    "linear1000": schedules.linear_betas(1000),
    "cosine1000": schedules.cosine_betas(1000),
    "linear4000": schedules.linear_betas(4000, start=2.5e-5, end=0.005),
    "cosine4000": schedules.cosine_betas(4000),
    "cosine10": schedules.cosine_betas(10),
}
VARIANCE = {
    "fixedsmall": transitions.fixed_small,
    "fixedlarge": transitions.fixed_large,
    "learned": transitions.learned,
    "learned_range": transitions.learned_range,
}
T = GOLDEN["core/t"]
NOISE, X0 = jnp.asarray(pseudo.noises()[0], float), jnp.asarray(pseudo.images(), float)


def steps(t):
    """The step for each of the two examples."""
    return jnp.full(2, t, jnp.int32)


def at_each(function, ts=T):
    """The function of each step, stacked: (steps, 2, 4, 4, 3)."""
    return jax.tree.map(lambda *x: np.stack(x), *[function(steps(t)) for t in ts])


def kept(name, table):
    """Tables of 4000 steps are stored at every 16th."""
    return table[::16] if name.endswith("4000") else table


@pytest.mark.parametrize("name", BETAS)
def test_tables(name):
    schedule = schedules.make_schedule(BETAS[name])
    np.testing.assert_allclose(
        kept(name, BETAS[name]), GOLDEN[f"schedules/{name}/betas"], rtol=1e-12
    )
    rtol = 1e-9 if X64 else 1e-6  # of the tables even the smallest numbers are right
    for table in (
        *("betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance"),
        *("posterior_log_variance_clipped", "posterior_mean_coef1"),
        "posterior_mean_coef2",
    ):
        ours = kept(name, np.asarray(getattr(schedule, table)))
        expected = GOLDEN[f"schedules/{name}/{table}"]
        np.testing.assert_allclose(ours, expected, rtol=rtol, err_msg=table)
    large = np.exp(kept(name, np.asarray(schedule.log_betas_clipped, np.float64)))
    expected = GOLDEN[f"schedules/{name}/fixedlarge_variance"]
    np.testing.assert_allclose(large, expected, rtol=1e-8 if X64 else 2e-6)


def test_betas_of_the_original_code():
    ours = {
        "quad": schedules.quadratic_betas(),
        "linear": schedules.linear_betas(),
        "warmup10": schedules.warmup_betas(fraction=0.1),
        "warmup50": schedules.warmup_betas(fraction=0.5),
        "const": schedules.constant_betas(),
        "jsd": schedules.jsd_betas(),
    }
    for name, betas in ours.items():
        np.testing.assert_allclose(betas, GOLDEN[f"ho/{name}"], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        ("linear", schedules.linear_betas()),
        ("scaled_linear", schedules.quadratic_betas()),
        ("sigmoid", schedules.sigmoid_betas()),
        ("squaredcos_cap_v2", schedules.cosine_betas()),
    ],
)
def test_betas_of_diffusers(name, betas):
    """diffusers works in float32: its cumulative products have lost digits."""
    expected = GOLDEN[f"schedules/diffusers/{name}/betas"]
    np.testing.assert_allclose(betas, expected, rtol=1e-5)
    product = np.cumprod(1 - betas)
    expected = GOLDEN[f"schedules/diffusers/{name}/alphas_cumprod"]
    np.testing.assert_allclose(product, expected, rtol=3e-3, atol=1e-7)


def test_variances_of_diffusers():
    """At t = 0 diffusers takes log beta_0 and log 1e-20 where OpenAI takes beta~_1.

    It derives its betas from float32 cumulative products, which costs three digits.
    """
    schedule = schedules.make_schedule(BETAS["linear1000"])
    t = jnp.arange(1, 1000)
    like = jnp.zeros(999)
    stem = "schedules/diffusers/linear/_get_variance/fixed_"
    small, log_small = transitions.fixed_small(schedule, t, None, like)
    np.testing.assert_allclose(small, GOLDEN[stem + "small"][1:], rtol=1e-3)
    scale = np.exp(0.5 * log_small)  # what diffusers calls "fixed_small_log"
    np.testing.assert_allclose(scale, GOLDEN[stem + "small_log"][1:], rtol=1e-3)
    large, log_large = transitions.fixed_large(schedule, t, None, like)
    np.testing.assert_allclose(large, GOLDEN[stem + "large"][1:], rtol=1e-3)
    np.testing.assert_allclose(log_large, GOLDEN[stem + "large_log"][1:], rtol=1e-3)
    stem = "schedules/diffusers/learned_range/"
    t = jnp.asarray(GOLDEN[stem + "t"][1:])
    predicted = jnp.broadcast_to(GOLDEN[stem + "predicted"], (len(t), 6))
    _, ours = transitions.learned_range(schedule, t, predicted, predicted)
    np.testing.assert_allclose(ours, GOLDEN[stem + "log_variance"][1:], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        ("linear", schedules.linear_betas()),
        ("scaled_linear", schedules.quadratic_betas()),
        ("squaredcos_cap_v2", schedules.cosine_betas()),
    ],
)
def test_zero_terminal_snr(name, betas):
    """The peer's float64 starts from betas that it had rounded to float32."""
    ours = schedules.zero_terminal_snr(betas)
    expected = GOLDEN[f"schedules/zerosnr/{name}/betas_f64"]
    np.testing.assert_allclose(ours, expected, rtol=3e-7, atol=1e-12)
    float32 = GOLDEN[f"schedules/zerosnr/{name}/betas"]
    np.testing.assert_allclose(ours, float32, rtol=1e-2, atol=1e-6)


def test_spacings():
    for key in (key for key in GOLDEN if key.startswith("respacing/")):
        chain, spec = key.removeprefix("respacing/").split(":", 1)
        if chain == "diffusers_dpm" or "," in spec:
            continue  # its own grid; several sections, which no sampler here asks for
        if chain == "diffusers_ddim":
            spacing, count = spec.split(":")
            total = 1000
        else:
            spacing = "ddim" if spec.startswith("ddim") else "uniform"
            total, count = chain, spec.removeprefix("ddim")
        ours = schedules.spaced_timesteps(int(total), int(count), spacing=spacing)
        np.testing.assert_array_equal(ours, np.sort(GOLDEN[key]), err_msg=key)


@pytest.mark.parametrize("name", ["linear1000", "cosine1000"])
def test_forward_process(name):
    schedule = schedules.make_schedule(BETAS[name])
    noised = at_each(lambda t: transitions.q_sample(schedule, X0, t, NOISE))
    np.testing.assert_allclose(noised, GOLDEN[f"core/{name}/q_sample"], **TIGHT)
    mean = at_each(
        lambda t: (
            transitions.q_posterior(
                schedule, X0, transitions.q_sample(schedule, X0, t, NOISE), t
            ).mean
        )
    )
    np.testing.assert_allclose(mean, GOLDEN[f"core/{name}/q_posterior_mean"], **TIGHT)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("kind", VARIANCE)
@pytest.mark.parametrize("name", ["linear1000", "cosine1000"])
def test_reverse_process(name, kind, clip):
    schedule = schedules.make_schedule(BETAS[name])
    learned = kind.startswith("learned")
    model = (pseudo.learned_model if learned else pseudo.eps_model)(BETAS[name])

    def reverse(t):
        xt = transitions.q_sample(schedule, X0, t, NOISE)
        gaussian, prediction = transitions.p_mean_variance(
            schedule,
            xt,
            t,
            model(xt, t),
            variance=VARIANCE[kind],
            clip=clip_static() if clip else None,
        )
        return {
            "mean": gaussian.mean,
            "variance": jnp.broadcast_to(gaussian.variance, xt.shape),
            "log_variance": jnp.broadcast_to(gaussian.log_variance, xt.shape),
            "pred_xstart": prediction.x0,
        }

    tolerance = dict(TIGHT)
    if not X64:  # x_0 = (x_t - sigma eps) / signal magnifies rounding by 1 / signal
        tolerance["atol"] = 1e-5 / float(schedule.sqrt_alphas_cumprod[-2])
    for field, ours in at_each(reverse).items():
        expected = GOLDEN[f"core/{name}/{kind}/clip{clip}/{field}"]
        np.testing.assert_allclose(ours[:-1], expected[:-1], **tolerance, err_msg=field)
        scale = np.abs(expected[-1]).max() if not X64 else 1
        np.testing.assert_allclose(
            ours[-1] / scale, expected[-1] / scale, **TIGHT, err_msg=field
        )


def test_x0_prediction():
    schedule = schedules.make_schedule(BETAS["linear1000"])

    def reverse(t):
        xt = transitions.q_sample(schedule, X0, t, NOISE)
        output = jnp.tanh(0.8 * xt)
        return transitions.p_mean_variance(
            schedule, xt, t, output, predict=transitions.from_x0
        )[0].mean

    expected = GOLDEN["core/linear1000/xstart_tanh/mean"]
    np.testing.assert_allclose(at_each(reverse), expected, **TIGHT)


def test_noise_and_velocity_of_diffusers():
    schedule = schedules.make_schedule(BETAS["linear1000"])
    noised = at_each(lambda t: transitions.q_sample(schedule, X0, t, NOISE))
    np.testing.assert_allclose(noised, GOLDEN["core/diffusers/add_noise"], **FLOAT32)
    v = at_each(lambda t: transitions.velocity(schedule, X0, t, NOISE))
    expected = GOLDEN["core/diffusers/get_velocity"]
    np.testing.assert_allclose(v, expected, rtol=2e-5, atol=2e-5)


def test_min_snr_weights():
    schedule = schedules.make_schedule(BETAS["linear1000"])
    t = jnp.arange(1000)
    for name in ("eps", "x0", "v"):
        weight = losses.min_snr(5.0, predict=getattr(transitions, f"from_{name}"))
        expected = GOLDEN[f"schedules/minsnr/weight_{name}"]
        np.testing.assert_allclose(weight(schedule, t), expected, rtol=1e-5)


def test_divergence():
    mean1, lv1, mean2, lv2 = jnp.asarray(GOLDEN["vlb/kl/args"], float)
    ours = kl_divergence(
        Gaussian(mean1, jnp.exp(lv1), lv1), Gaussian(mean2, jnp.exp(lv2), lv2)
    )
    np.testing.assert_allclose(ours, GOLDEN["vlb/kl/out"], **TIGHT)


def test_discretised_likelihood():
    x, mean, scale = (
        jnp.asarray(GOLDEN[f"vlb/dgll/{k}"], float) for k in ("x", "mean", "log_scale")
    )
    x, mean, scale = x[:, None, None], mean[None, :, None], scale[None, None, :]
    full = jnp.zeros((10, 7, 4))
    gaussian = Gaussian(full + mean, jnp.exp(2 * scale) + full, 2 * scale + full)
    ours = np.asarray(discretized_log_likelihood(x + full, gaussian))
    expected = GOLDEN["vlb/dgll/logp"]
    # Where the peers' 1 - Phi has cancelled to nothing they report the floor, or what
    # the rounding left of it; our tails do not cancel.
    resolved = np.exp(expected) > 1e-11
    np.testing.assert_allclose(
        ours[resolved], expected[resolved], rtol=1e-4, atol=1e-6 if X64 else 1e-4
    )
    assert resolved.mean() > 0.5


def bound_case(name, kind):
    learned = kind.startswith("learned")
    betas = BETAS[name]
    model = (pseudo.learned_model if learned else pseudo.eps_model)(betas)
    return schedules.make_schedule(betas), model, VARIANCE[kind]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear1000", "fixedlarge"),
        ("linear1000", "fixedsmall"),
        ("linear1000", "learned_range"),
        ("cosine1000", "fixedlarge"),
        ("cosine1000", "learned_range"),
        ("cosine4000", "learned_range"),
    ],
)
def test_bound(name, kind):
    schedule, model, variance = bound_case(name, kind)
    denoise = denoiser(model, variance=variance, clip=clip_static())
    total = schedule.num_steps
    noises = jnp.asarray(pseudo.noises(), float)

    @jax.jit
    def walk():
        def body(_, t):
            noise = noises[(total - 1 - t) % 1000]
            return None, step_terms(denoise, schedule, X0, t, noise)

        return jax.lax.scan(body, None, jnp.arange(total))[1]

    ours, stem = walk(), f"vlb/{name}/{kind}/"
    for field, theirs in (("term", "vb"), ("mse", "mse"), ("x0_mse", "xstart_mse")):
        values = kept(name, np.asarray(getattr(ours, field)))
        np.testing.assert_allclose(
            values.T, GOLDEN[stem + theirs], rtol=TIGHT["rtol"] * 10, atol=TIGHT["atol"]
        )
    prior = losses.prior_bpd(schedule, X0)
    np.testing.assert_allclose(prior, GOLDEN[stem + "prior_bpd"], rtol=1e-4, atol=1e-12)
    bits = np.asarray(ours.term).sum(0) + prior
    np.testing.assert_allclose(bits, GOLDEN[stem + "total_bpd"], **LONG)


@pytest.mark.parametrize("kind", ["fixedlarge", "fixedsmall", "learned_range"])
@pytest.mark.parametrize("name", ["linear1000", "cosine4000"])
def test_losses(name, kind):
    schedule, model, variance = bound_case(name, kind)
    stride = schedule.num_steps // 1000
    folder = f"vlb/losses/{name}" + ("_t4x" if stride == 4 else "")

    def each(t):
        xt = transitions.q_sample(schedule, X0, t, NOISE)
        output = model(xt, t)
        example = (schedule, X0, xt, t, NOISE, output)
        simple = losses.simple_loss(*example)
        vlb = losses.vlb_term(*example, variance=variance)
        values = {"mse": simple, "vb": vlb, "kl": vlb}
        if kind == "learned_range":
            values["hybrid"] = losses.hybrid_loss(*example)
            values["unit"] = losses.hybrid_loss(*example, vlb_weight=1.0)
        return values

    ours = at_each(each, GOLDEN["vlb/losses/t"] * stride)

    def check(values, path):
        np.testing.assert_allclose(values, GOLDEN[f"{folder}/{kind}/{path}"], **TIGHT)

    check(ours["mse"], "mse/mse")
    check(ours["kl"], "kl/loss")
    scaled = np.asarray(ours["kl"]) * schedule.num_steps
    expected = GOLDEN[f"{folder}/{kind}/rescaled_kl/loss"]
    np.testing.assert_allclose(
        scaled, expected, rtol=TIGHT["rtol"], atol=TIGHT["atol"] * schedule.num_steps
    )
    if kind == "learned_range":
        check(ours["hybrid"], "rescaled_mse/loss")
        check(ours["unit"], "mse/loss")
    else:
        check(ours["mse"], "mse/loss")


def test_importance_sampling_of_steps():
    sampler = loss_second_moment(6)
    state = sampler.init()
    for losses_, expected in zip(
        GOLDEN["vlb/loss_second_moment/losses"].T,
        GOLDEN["vlb/loss_second_moment/weights_after_each"],
        strict=True,
    ):
        state = sampler.update(state, jnp.arange(6), jnp.asarray(losses_, float))
        p = np.asarray(step_probabilities(state))
        np.testing.assert_allclose(p, expected / expected.sum(), **TIGHT)

"""Sampler paths against numbers that the peers' own code produced (tests/golden)."""

import importlib.util
import math
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import guidance, transitions
from ddpm_jax.diffusion.closures import as_closure
from ddpm_jax.diffusion.denoiser import as_denoiser, denoiser
from ddpm_jax.diffusion.samplers import (
    ddim,
    ddim_update,
    ddpm_update,
    dpm_solver_pp,
)
from ddpm_jax.diffusion.schedules import (
    cosine_betas,
    linear_betas,
    make_schedule,
    spaced_timesteps,
    zero_terminal_snr,
)
from ddpm_jax.diffusion.solver_spacing import interpolated_schedule, log_snr_positions

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
_spec = importlib.util.spec_from_file_location("pseudo", FOLDER / "pseudo_model.py")
pseudo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pseudo)

GOLDEN = np.load(FOLDER / "diffusion_samplers.npz")
NOISES, X0 = pseudo.noises(), pseudo.images()
BETAS = linear_betas(1000)
X64 = jax.config.jax_enable_x64
LOOP = {"rtol": 0, "atol": 1e-8 if X64 else 5e-4}
STEP = {"rtol": 0, "atol": 1e-8 if X64 else 1e-5}
# What diffusers computed in float32 cannot agree better in float64.
FLOAT32 = {"rtol": 0, "atol": 2e-4}


def respaced(count, spacing):
    kept = spaced_timesteps(1000, count, spacing=spacing)
    return make_schedule(BETAS, timesteps=kept)


def told(schedule, i, x):
    return jnp.full(x.shape[:1], schedule.timesteps[i])


def walk(update, denoise, schedule, **values):
    """All states of update(schedule, x, i, estimate, noise), with the golden noises."""
    noises = jnp.asarray(NOISES[: schedule.num_steps + 1], float)
    return np.asarray(_walk(update, as_denoiser(denoise), schedule, noises, values))


@partial(jax.jit, static_argnums=0)
def _walk(update, denoise, schedule, noises, values):
    def body(x, inputs):
        i, noise = inputs
        x = update(schedule, x, i, denoise(schedule, x, i), noise, **values)
        return x, x

    down = jnp.arange(schedule.num_steps - 1, -1, -1)
    return jax.lax.scan(body, noises[0], (down, noises[1:]))[1]


def path(sampler, denoise, schedule):
    """All states of a sampler that draws nothing."""
    state = sampler.init(schedule, jnp.asarray(NOISES[0], float))
    return np.asarray(
        _path(as_closure(sampler.step), as_denoiser(denoise), schedule, state)
    )


@jax.jit
def _path(step, denoise, schedule, state):
    def body(state, i):
        state, _ = step(jax.random.key(0), denoise, schedule, state, i)
        return state, state.x

    down = jnp.arange(schedule.num_steps - 1, -1, -1)
    return jax.lax.scan(body, state, down)[1]


def limited(network, clip, rule="fixedlarge", rederive=True):
    """The denoiser, with clips that are traced so that one program serves both."""
    clip = guidance.clip_static(1.0 if clip else math.inf)
    return denoiser(network, variance=RULES[rule], clip=clip, rederive=rederive)


RULES = {
    "fixedsmall": transitions.fixed_small,
    "fixedlarge": transitions.fixed_large,
    "learned_range": transitions.learned_range,
}
CLIP = guidance.clip_static()
BY_CLASS = pseudo.class_model(BETAS)
EPS, LEARNED = pseudo.eps_model(BETAS), pseudo.learned_model(BETAS)
KEPT = {10: np.arange(10), 50: np.array([0, 9, 24, 48, 49])}


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_ancestral_sampling_over_a_thousand_steps(rule, clip):
    model = LEARNED if rule == "learned_range" else EPS
    states = walk(ddpm_update, limited(model, clip, rule), make_schedule(BETAS))
    expected = GOLDEN[f"ancestral/guided/linear1000/{rule}/clip{clip}/f64"]
    kept = GOLDEN["ancestral/kept_steps"]
    np.testing.assert_allclose(states[kept], expected, **LOOP)


@pytest.mark.parametrize(
    ("case", "betas", "rule"),
    [
        ("cosine1000/100", cosine_betas(1000), "learned_range"),
        ("linear1000/50", BETAS, "fixedlarge"),
    ],
)
def test_ancestral_sampling_on_a_respaced_chain(case, betas, rule):
    count = int(case.split("/")[1])
    kept = spaced_timesteps(1000, count, spacing="uniform")
    schedule = make_schedule(betas, timesteps=kept)
    name = f"ancestral/guided_respaced/{case}/{rule}"
    np.testing.assert_array_equal(schedule.timesteps[::-1], GOLDEN[f"{name}/model_t"])
    learned = rule == "learned_range"
    model = (pseudo.learned_model if learned else pseudo.eps_model)(betas)
    # OpenAI's loops clip.
    states = walk(ddpm_update, limited(model, True, rule), schedule)
    np.testing.assert_allclose(states[-1], GOLDEN[f"{name}/final"], **LOOP)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [10, 50])
def test_ddim_is_that_of_guided_diffusion(count, eta, clip):
    schedule = respaced(count, "ddim")
    states = walk(ddim_update, limited(EPS, clip), schedule, eta=eta)
    expected = GOLDEN[f"ddim/guided/ddim{count}/eta{eta}/clip{clip}"]
    np.testing.assert_allclose(states[KEPT[count]], expected, **LOOP)
    if eta == 0:
        states = path(ddim(), limited(EPS, clip), schedule)
        np.testing.assert_allclose(states[KEPT[count]], expected, **LOOP)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["uniform10", "uniform50", "quad10", "quad50"])
def test_ddim_is_that_of_its_authors(spacing, eta):
    seq = GOLDEN[f"ddim/ermon/{spacing}/seq"]
    # Their quadratic 50 visits step 0 twice; the second visit moves nothing, and a
    # chain has no step twice.
    schedule = make_schedule(BETAS, timesteps=np.unique(seq))
    states = walk(ddim_update, limited(EPS, False), schedule, eta=eta)
    kept = KEPT[len(seq)]
    if spacing == "quad50":
        kept = np.array([0, 9, 24, 47, 48])
    expected = GOLDEN[f"ddim/ermon/{spacing}/eta{eta}/x"]
    np.testing.assert_allclose(states[kept], expected, **LOOP)


@pytest.mark.parametrize("spacing", ["uniform10", "uniform50", "quad10", "quad50"])
def test_ancestral_sampling_with_the_large_variance_is_sigma_hat(spacing):
    """`ddpm_noisy` of the DDIM code: the respaced chain's own betas, x_0 clipped."""
    seq = np.unique(GOLDEN[f"ddim/ermon/{spacing}/seq"])
    schedule = make_schedule(BETAS, timesteps=seq)
    states = walk(ddpm_update, limited(EPS, True), schedule)
    expected = GOLDEN[f"ddim/ermon/{spacing}/ddpm_noisy_final"]
    np.testing.assert_allclose(states[-1], expected, **LOOP)


# diffusers steps from t to t - T // n whatever the spacing: with "linspace" the chain
# 999, 888, ... is stepped to 899 and evaluated at 888. There the law decides, that a
# step ends where the next begins, and those arrays are not among the golden ones.
@pytest.mark.parametrize(("clip", "rederive"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("case", ["leading10", "leading50", "trailing10", "trailing50"])
def test_ddim_is_that_of_diffusers(case, eta, clip, rederive):
    spacing, count = case[:-2], int(case[-2:])
    schedule = respaced(count, spacing)
    shown = GOLDEN[f"ddim/diffusers/{case}/timesteps"]
    np.testing.assert_array_equal(schedule.timesteps[::-1], shown)
    denoise = limited(EPS, clip, rederive=rederive == 1)
    states = walk(ddim_update, denoise, schedule, eta=eta)
    name = f"ddim/diffusers/{case}/eta{eta}/clip{clip}_rederive{rederive}/f32_final"
    np.testing.assert_allclose(states[-1], GOLDEN[name], **FLOAT32)


@pytest.mark.parametrize("count", [10, 50])
def test_ddim_with_zero_terminal_snr_and_v(count):
    kept = spaced_timesteps(1000, count, spacing="trailing")
    schedule = make_schedule(zero_terminal_snr(BETAS), timesteps=kept)
    denoise = denoiser(pseudo.v_model, predict=transitions.from_v)
    states = path(ddim(), denoise, schedule)
    expected = GOLDEN[f"ddim/diffusers/zerosnr_vpred_trailing{count}/f32_traj"]
    np.testing.assert_allclose(states[KEPT[count]], expected, **FLOAT32)


def test_inversion_takes_the_steps_of_guided_diffusion():
    """Its reverse sampler counts the image as x at index 0, and ends at pure noise.

    Ours begins one step earlier, at clean data, and ends at the last index, so that
    sampling starts where inversion stopped: the steps between are the same.
    """
    schedule = respaced(50, "ddim")

    @jax.jit
    def run(x):
        def body(x, i):
            said = transitions.from_eps(schedule, x, i, EPS(x, told(schedule, i, x)))
            x = transitions.q_sample(schedule, said.x0, i + 1, said.eps)
            return x, x

        return jax.lax.scan(body, x, jnp.arange(49))[1]

    states = run(jnp.asarray(X0, float))
    expected = GOLDEN["ddim/guided/ddim50_reverse_from_x0/clip0"]
    np.testing.assert_allclose(states[np.array([0, 9, 24, 48])], expected[:4], **LOOP)


@pytest.mark.parametrize("grid", ["time_uniform10", "time_uniform20", "logSNR10"])
@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_is_that_of_its_authors(order, grid):
    name = "dpm_solver/official"
    # Their time t is our step (t - 1/T) T; they end at index 0, we at clean data.
    positions = GOLDEN[f"{name}/{grid}/timesteps_continuous"][::-1] * 1000 - 1
    positions = np.clip(positions, 0, 999)
    if grid.startswith("logSNR"):
        ours = log_snr_positions(BETAS, len(positions))
        np.testing.assert_allclose(ours, positions, atol=1e-6)
    schedule = interpolated_schedule(BETAS, positions)
    np.testing.assert_allclose(
        schedule.timesteps[:0:-1], GOLDEN[f"{name}/{grid}/model_t"], rtol=1e-6
    )
    # From 10 steps on their code keeps the order up to its last step, into index 0.
    kept = {"lower_order_final": False}
    states = path(dpm_solver_pp(order=order, **kept), EPS, schedule)
    stem = f"{name}/dpmsolver++/multistep{order}/{grid}"
    np.testing.assert_allclose(states[-2], GOLDEN[f"{stem}/final"], **LOOP)
    if order == 2:
        np.testing.assert_allclose(states[:-1], GOLDEN[f"{stem}/traj"][1:], **LOOP)
    if f"{stem}/clipx0" in GOLDEN:
        to_zero = GOLDEN[f"{stem}/denoise_to_zero"]
        np.testing.assert_allclose(states[-1], to_zero, **LOOP)
        states = path(dpm_solver_pp(**kept), denoiser(EPS, clip=CLIP), schedule)
        np.testing.assert_allclose(states[-2], GOLDEN[f"{stem}/clipx0"], **LOOP)


def guided(scale, **more):
    label = jnp.asarray(GOLDEN["cfg/y"])
    return guidance.classifier_free(BY_CLASS, label, -1, scale, **more)


def test_guided_outputs():
    schedule, noise = make_schedule(BETAS), jnp.asarray(NOISES[0], float)
    for k, t in enumerate(GOLDEN["cfg/t"]):
        steps = jnp.full(2, t, jnp.int32)
        xt = transitions.q_sample(schedule, jnp.asarray(X0, float), steps, noise)
        for scale, name in [
            (0.0, "eps_uncond"),
            (1.0, "eps_cond"),
            (1.0, "eps_guided/w0.0"),
            (1.1, "eps_guided/w0.1"),
            (1.5, "eps_guided/w0.5"),
            (4.0, "eps_guided/w3.0"),
        ]:
            output = guided(scale)(xt, steps)
            np.testing.assert_allclose(output, GOLDEN[f"cfg/{name}"][k], **STEP)
        output = guided(4.0, rescale=0.7)(xt, steps)
        expected = GOLDEN["cfg/rescale_noise_cfg/scale4_phi0.7"][k]
        np.testing.assert_allclose(output, expected, **STEP)


@pytest.mark.parametrize("w", [0.5, 3.0])
def test_guided_loops(w):
    schedule = respaced(50, "uniform")
    denoise = denoiser(guided(1 + w), variance=transitions.fixed_small, clip=CLIP)
    states = walk(ddpm_update, denoise, schedule)
    expected = GOLDEN[f"cfg/loop_ancestral50_fixedsmall_clip1/w{w}"]
    np.testing.assert_allclose(states[-1], expected, **LOOP)
    states = path(ddim(), denoise, respaced(50, "ddim"))
    expected = GOLDEN[f"cfg/loop_ddim50_eta0_clip1/w{w}"]
    np.testing.assert_allclose(states[-1], expected, **LOOP)


def test_dpm_solver_under_strong_guidance_with_dynamic_thresholding():
    times = GOLDEN["dpm_solver/official/time_uniform20/timesteps_continuous"]
    positions = np.clip(times[::-1] * 1000 - 1, 0, 999)
    schedule = interpolated_schedule(BETAS, positions)
    denoise = denoiser(guided(4.0), clip=guidance.clip_dynamic(0.995))
    states = path(dpm_solver_pp(lower_order_final=False), denoise, schedule)
    expected = GOLDEN["cfg/dpmpp2m_time_uniform20_cfgscale4_dynthresh"]
    np.testing.assert_allclose(states[:-1], expected[1:], **LOOP)

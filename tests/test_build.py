"""What a config names is what the functions are that `build` makes of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import build
from ddpm_jax.config import ClipConfig, Config, DiffusionConfig, ScheduleConfig
from ddpm_jax.diffusion import importance, losses, samplers, schedules, transitions
from ddpm_jax.diffusion.variances import Variance
from ddpm_jax.networks.convolutions import DIRECT, WINOGRAD

SCHEDULE = ScheduleConfig(num_steps=8, start=0.05, end=0.5)
CHAIN = schedules.make_schedule(np.linspace(0.05, 0.5, 8))
T = jnp.array([0, 3, 7])
X0, NOISE, MEAN, SECOND = jax.random.uniform(
    jax.random.key(0), (4, 3, 2, 2, 1), minval=-1, maxval=1
)
XT = transitions.q_sample(CHAIN, X0, T, NOISE)
OUTPUT = jnp.concatenate([3 * MEAN, SECOND], axis=-1)

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
    "none": (ClipConfig(kind="none"), lambda x0: x0),
    "static": (ClipConfig(bound=0.5), lambda x0: np.clip(x0, -0.5, 0.5)),
    "dynamic": (
        ClipConfig(kind="dynamic", percentile=0.7, max_value=1.5),
        lambda x0: dynamic(x0, 0.7, 1.5),
    ),
}


def dynamic(x0, percentile, largest):
    flat = np.abs(np.reshape(x0, (len(x0), -1)))
    s = np.clip(np.quantile(flat, percentile, axis=1), 1, largest)[:, None, None, None]
    return np.clip(x0, -s, s) / s


def config(**fields):
    learned = fields.get("variance", "fixed_large").startswith("learned")
    return DiffusionConfig(
        **{"schedule": SCHEDULE, "loss": "vlb" if learned else "simple"} | fields
    )


def output_for(variance):
    return OUTPUT if variance.startswith("learned") else OUTPUT[..., :1]


@pytest.mark.parametrize("rederive", [True, False])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("variance", VARIANCE)
@pytest.mark.parametrize("predict", PREDICT)
def test_a_network_is_read_as_the_config_says(predict, variance, clip, rederive):
    told, limit = CLIPS[clip]
    fields = config(predict=predict, variance=variance, clip=told, rederive=rederive)
    output = output_for(variance)
    denoise = build.make_denoiser(fields, lambda x, t: output)
    i = jnp.asarray(5)
    estimate = denoise(CHAIN, XT, i)

    plain = PREDICT[predict](CHAIN, XT, i, output[..., :1])
    x0, eps = limit(plain.x0), plain.eps
    if clip != "none" and rederive:
        bar = np.prod(1 - np.linspace(0.05, 0.5, 8)[:6])
        eps = (XT - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
    np.testing.assert_allclose(estimate.x0, x0, atol=1e-6)
    np.testing.assert_allclose(estimate.eps, eps, atol=2e-6)
    assert clip == "none" or np.abs(plain.x0 - x0).max() > 0.1  # it does limit
    spread = VARIANCE[variance](CHAIN, i, SECOND, XT)
    assert isinstance(spread, Variance)
    np.testing.assert_allclose(estimate.variance.variance, spread.variance, rtol=1e-6)


def test_a_caller_may_leave_the_clip_out_and_choose_what_eps_is():
    fields = config(clip=ClipConfig(bound=0.5), rederive=False)
    output = output_for("fixed_large")
    network, i = lambda x, t: output, jnp.asarray(5)
    raw = build.make_denoiser(fields, network, clip=False)(CHAIN, XT, i)
    assert np.abs(raw.x0).max() > 0.6
    kept = build.make_denoiser(fields, network)(CHAIN, XT, i)
    np.testing.assert_array_equal(kept.eps, output)
    again = build.make_denoiser(fields, network, rederive=True)(CHAIN, XT, i)
    assert np.abs(again.eps - output).max() > 0.1


OBJECTIVES = [
    *itertools.product(["simple"], ["fixed_small", "fixed_large"], build.WEIGHTS),
    *itertools.product(["simple"], ["fixed_small", "fixed_large"], ["constant"]),
    *itertools.product(["vlb"], VARIANCE, ["constant"]),
    *itertools.product(
        ["hybrid"], ["learned", "learned_range"], ["constant", *build.WEIGHTS]
    ),
]


@pytest.mark.parametrize(("loss", "variance", "weight"), OBJECTIVES)
@pytest.mark.parametrize("predict", PREDICT)
def test_the_loss_is_the_one_that_the_config_names(predict, loss, variance, weight):
    fields = config(predict=predict, loss=loss, variance=variance, weight=weight)
    output = output_for(variance)
    example = (CHAIN, X0, XT, T, NOISE, output)
    made = build.make_loss(fields)(*example)

    bar = np.cumprod(1 - np.linspace(0.05, 0.5, 8))[np.asarray(T)]
    a, s = np.sqrt(bar)[:, None, None, None], np.sqrt(1 - bar)[:, None, None, None]
    target = {"eps": NOISE, "x0": X0, "v": a * NOISE - s * X0}[predict]
    snr = bar / (1 - bar)
    of_eps = {
        "constant": np.ones(3),
        "min_snr": np.minimum(1, 5 / snr),
        "p2": 1 / (1 + snr),
    }[weight]
    share = {"eps": 1, "x0": snr, "v": snr / (1 + snr)}[predict]
    factor = of_eps if weight == "constant" else of_eps * share
    simple = factor * np.mean(np.square(target - output[..., :1]), axis=(1, 2, 3))
    how = {"predict": PREDICT[predict], "variance": VARIANCE[variance]}
    bound = losses.vlb_term(*example, **how)
    # T times a term is the whole bound; the hybrid takes a thousandth of it.
    expected = {
        "simple": simple,
        "vlb": 8 * bound,
        "hybrid": simple + 8 / 1000 * bound,
    }[loss]
    np.testing.assert_allclose(made, expected, rtol=2e-5)


@pytest.mark.parametrize("loss", ["simple", "hybrid"])
def test_the_bound_of_the_hybrid_leaves_the_mean_alone(loss):
    variance = "learned_range" if loss == "hybrid" else "fixed_large"
    made = build.make_loss(config(loss=loss, variance=variance, predict="v"))
    output = output_for(variance)
    slope = jax.grad(lambda o: made(CHAIN, X0, XT, T, NOISE, o).sum())(output)
    target = transitions.velocity(CHAIN, X0, T, NOISE)
    expected = 2 * (output[..., :1] - target) / 4  # of a mean over 2 x 2 x 1
    np.testing.assert_allclose(slope[..., :1], expected, rtol=1e-5)


def test_the_steps_are_drawn_as_the_config_says():
    made = build.make_step_sampler(config())
    assert made.init() == ()
    keys = jax.random.split(jax.random.key(0), 200)
    t, weight = made.draw((), keys)
    assert set(np.unique(t)) == set(range(8)) and np.all(weight == 1)
    made = build.make_step_sampler(config(steps="loss_second_moment"))
    assert isinstance(made.init(), importance.LossHistory)
    assert made.init().counts.shape == (8,)


def test_every_schedule_is_made_of_the_fields_that_it_reads():
    read = {
        "linear": (dict(start=0.03, end=0.4), np.linspace(0.03, 0.4, 8)),
        "quadratic": (
            dict(start=0.03, end=0.4),
            np.linspace(0.03**0.5, 0.4**0.5, 8) ** 2,
        ),
        "constant": (dict(end=0.3), np.full(8, 0.3)),
        "warmup": (
            dict(start=0.03, end=0.4, fraction=0.5),
            np.r_[np.linspace(0.03, 0.4, 4), [0.4] * 4],
        ),
        "jsd": ({}, 1 / np.arange(8, 0, -1)),
        "cosine": (
            dict(offset=0.1, max_beta=0.7),
            schedules.cosine_betas(8, offset=0.1, max_beta=0.7),
        ),
        "sigmoid": (
            dict(start=0.03, end=0.4),
            schedules.sigmoid_betas(8, start=0.03, end=0.4),
        ),
        "explicit": (
            dict(betas=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
            np.arange(1, 9) / 10,
        ),
    }
    assert set(read) == set(build.BETAS)
    for kind, (fields, betas) in read.items():
        made = ScheduleConfig(kind=kind, num_steps=8, **fields)
        np.testing.assert_allclose(build.make_betas(made), betas, rtol=1e-12)
    shifted = ScheduleConfig(num_steps=8, start=0.05, end=0.5, zero_terminal_snr=True)
    np.testing.assert_allclose(build.make_betas(shifted)[-1], 1)


@pytest.mark.parametrize("name", build.SAMPLERS)
def test_a_sampler_is_known_by_its_name(name):
    def network(x, t):
        return 0.3 * x + 0.1

    with jax.disable_jit():
        named, made = (
            samplers.sample(0, network, CHAIN, (2, 3), sampler=sampler)
            for sampler in (build.make_sampler(name), getattr(samplers, name)())
        )
    np.testing.assert_array_equal(named, made)


def test_ddim_has_the_eta_that_is_asked_for():
    draws = []
    for eta in (0.0, 0.3, 1.0):
        with jax.disable_jit():
            draws += [
                samplers.sample(0, lambda x, t: 0.3 * x, CHAIN, (2, 3), sampler=sampler)
                for sampler in (
                    build.make_sampler("ddim", eta=eta),
                    samplers.ddim(eta=eta),
                )
            ]
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.abs(draws[2] - draws[0]).max() > 0.01
    assert np.abs(draws[2] - draws[4]).max() > 0.01


@pytest.mark.parametrize(
    "backend, devices, expected",
    [("cpu", 1, WINOGRAD), ("cpu", 2, DIRECT), ("gpu", 1, DIRECT)],
)
def test_convolutions_are_winograd_s_on_one_cpu_device(
    backend, devices, expected, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert build.make_network(Config()).convolutions == expected

"""A network and how it is read: one place, for every model and every user of it."""

import dataclasses
import itertools
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ddpm_jax.diffusion import (
    editing,
    guidance,
    likelihood,
    losses,
    samplers,
    schedules,
    transitions,
)
from ddpm_jax.diffusion.closures import Closure
from ddpm_jax.diffusion.denoiser import Denoiser, Estimate, denoiser
from ddpm_jax.diffusion.parametrisations import Parametrisation
from ddpm_jax.diffusion.samplers.base import SampleState

KEY = jax.random.key(0)
BETAS = schedules.linear_betas(1000)
FULL = schedules.make_schedule(BETAS)
SHORT = schedules.make_schedule(
    BETAS, timesteps=schedules.spaced_timesteps(1000, 100, spacing="trailing")
)
MEAN, SPREAD = 0.3, 0.2
SAMPLERS = {
    "ddpm": samplers.ddpm(),
    "ddim": samplers.ddim(),
    "ddim eta": samplers.ddim(eta=0.5),
    "2M": samplers.dpm_solver_pp(),
    "SDE 2M": samplers.dpm_solver_pp(stochastic=True),
    "unipc": samplers.unipc(),
    "heun": samplers.heun(),
}
PREDICT = {
    "eps": transitions.from_eps,
    "x0": transitions.from_x0,
    "v": transitions.from_v,
}


def normal_network(kind, *, variance=None):
    """The exact network for N(MEAN, SPREAD^2); with a variance, of twice the channels.

    variance: "learned" is the exact reverse variance; "learned_range" says beta_t.
    """
    bar = np.cumprod(1 - BETAS)
    prev = np.append(1.0, bar[:-1])
    left = SPREAD**2 * (1 - bar) / (SPREAD**2 * bar + 1 - bar)
    exact = BETAS * (1 - prev) / (1 - bar)
    exact = exact + (BETAS * np.sqrt(prev) / (1 - bar)) ** 2 * left
    table = jnp.asarray(np.log(exact), jnp.float32)

    def network(x, t):
        a = schedules.at(FULL.sqrt_alphas_cumprod, t, x)
        s = schedules.at(FULL.sqrt_one_minus_alphas_cumprod, t, x)
        eps = s * (x - a * MEAN) / (SPREAD**2 * a**2 + s**2)
        x0 = MEAN + SPREAD**2 * a * (x - a * MEAN) / (SPREAD**2 * a**2 + s**2)
        output = {"eps": eps, "x0": x0, "v": a * eps - s * x0}[kind]
        if variance is None:
            return output
        second = schedules.at(table, t, x) if variance == "learned" else 1.0
        second = jnp.broadcast_to(second, x.shape)
        return jnp.concatenate([output, second], axis=-1)

    return network


def clipped_or_not(names):
    """Every name with every prediction, each of both with and without a clip."""
    cases = itertools.product(names, PREDICT)
    return [
        (*case, (None, guidance.clip_static())[i % 2]) for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize(("name", "kind", "clip"), clipped_or_not(SAMPLERS))
def test_every_model_gives_the_data_back_from_every_sampler(name, kind, clip):
    """N(0.3, 0.2^2), by what the network predicts: mean and spread within 4 errors."""
    denoise = denoiser(normal_network(kind), predict=PREDICT[kind], clip=clip)
    # What 100 steps of order 1 leave out shows where noise is added at each of them.
    chain = FULL if name in ("ddpm", "ddim eta") else SHORT
    x = samplers.sample(KEY, denoise, chain, (64, 64), sampler=SAMPLERS[name])
    count = x.size
    assert abs(np.mean(x) - MEAN) < 4 * SPREAD / np.sqrt(count)
    assert abs(np.std(x) / SPREAD - 1) < 4 / np.sqrt(2 * count) + 0.015


RULES = ("fixed_small", "learned", "learned_range")


@pytest.mark.parametrize(("rule", "kind", "clip"), clipped_or_not(RULES))
def test_every_variance_gives_the_data_back(rule, kind, clip):
    """The whole chain of ancestral sampling; `fixed_large` is in the law above."""
    network = normal_network(kind, variance=rule if rule != "fixed_small" else None)
    variance = getattr(transitions, rule)
    denoise = denoiser(network, predict=PREDICT[kind], variance=variance, clip=clip)
    x = samplers.sample(KEY, denoise, FULL, (64, 64))
    assert abs(np.mean(x) - MEAN) < 4 * SPREAD / np.sqrt(x.size)
    assert abs(np.std(x) / SPREAD - 1) < 4 / np.sqrt(2 * x.size) + 0.015


@pytest.mark.parametrize("kind", PREDICT)
@pytest.mark.parametrize("rule", RULES)
def test_the_variance_is_read_as_the_model_says(rule, kind):
    """One ancestral step: the spread of its noise is the rule's, and no other."""
    second = rule if rule.startswith("learned") else None
    network = normal_network(kind, variance=second)
    variance = getattr(transitions, rule)
    denoise = denoiser(network, predict=PREDICT[kind], variance=variance)
    i = jnp.asarray(500)
    estimate = denoise(FULL, jnp.zeros((2, 3)), i)
    bar = np.cumprod(1 - BETAS)
    small = BETAS[500] * (1 - bar[499]) / (1 - bar[500])
    left = SPREAD**2 * (1 - bar[500]) / (SPREAD**2 * bar[500] + 1 - bar[500])
    shared = (BETAS[500] * np.sqrt(bar[499]) / (1 - bar[500])) ** 2 * left
    expected = {
        "fixed_small": small,
        "learned": small + shared,
        "learned_range": BETAS[500],
    }[rule]
    np.testing.assert_allclose(estimate.variance.variance, expected, rtol=1e-4)
    zeros, ones = jnp.zeros((2, 3)), jnp.ones((2, 3))
    still, moved = (
        samplers.ddpm_update(FULL, zeros, i, estimate, noise) for noise in (zeros, ones)
    )
    np.testing.assert_allclose((moved - still) ** 2, expected, rtol=1e-4)


def test_the_estimate_is_clipped_and_eps_follows_where_wanted():
    x, i = jnp.full((2, 3), 2.0), jnp.asarray(3)
    plain = denoiser(lambda x, t: 0 * x + 0.5)(SHORT, x, i)
    kept = denoiser(
        lambda x, t: 0 * x + 0.5, clip=guidance.clip_static(), rederive=False
    )(SHORT, x, i)
    again = denoiser(lambda x, t: 0 * x + 0.5, clip=guidance.clip_static())(SHORT, x, i)
    assert np.all(plain.x0 > 1)
    np.testing.assert_array_equal(kept.x0, 1)
    np.testing.assert_array_equal(kept.eps, 0.5)
    noised = transitions.q_sample(SHORT, again.x0, i, again.eps)
    np.testing.assert_allclose(noised, x, rtol=1e-5)


def test_the_network_is_told_the_steps_of_its_training():
    told = []

    def network(x, t):
        told.append(np.asarray(t))
        return x

    denoiser(network)(SHORT, jnp.ones((2, 3)), jnp.asarray(7))
    np.testing.assert_array_equal(told, [[79, 79]])


def test_a_plain_function_is_an_eps_network_that_is_not_clipped():
    def network(x, t):
        return -x

    for draw in (
        lambda f: samplers.sample(KEY, f, SHORT, (2, 3)),
        lambda f: samplers.ddim_invert(f, SHORT, jnp.ones((2, 3))),
        lambda f: likelihood.bits_per_dim(KEY, f, SHORT, jnp.ones((2, 3))).terms,
        lambda f: editing.image_to_image(
            KEY, f, SHORT, jnp.ones((2, 3)), start_index=5
        ),
    ):
        np.testing.assert_array_equal(draw(network), draw(denoiser(network)))
    assert np.abs(samplers.sample(KEY, network, SHORT, (2, 3))).max() > 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_may_compute_in_another_type(name):
    def network(x, t):
        return 0.5 * x.astype(jnp.bfloat16)

    denoise = denoiser(network, predict=transitions.from_x0)
    x = samplers.sample(KEY, denoise, SHORT, (2, 3), sampler=SAMPLERS[name])
    assert x.dtype == jnp.float32 and np.all(np.isfinite(x))


def test_a_prediction_of_ones_own_trains_and_samples():
    """F = (x_0 - s^2 alpha x_t / w) / c, w = s^2 alpha^2 + sigma^2: Karras's form."""

    def parts(schedule, t, x):
        a = schedules.at(schedule.sqrt_alphas_cumprod, t, x)
        s = schedules.at(schedule.sqrt_one_minus_alphas_cumprod, t, x)
        w = SPREAD**2 * a**2 + s**2
        return a, s, SPREAD**2 * a / w, SPREAD * s / jnp.sqrt(w)

    def read(schedule, xt, t, output):
        _, _, skip, scale = parts(schedule, t, xt)
        return transitions.from_x0(schedule, xt, t, skip * xt + scale * output)

    def target(schedule, x0, t, noise):
        xt = transitions.q_sample(schedule, x0, t, noise)
        _, _, skip, scale = parts(schedule, t, xt)
        return (x0 - skip * xt) / scale

    own = Parametrisation("karras", read, target)
    x0, noise = MEAN + SPREAD * jnp.ones((4, 3)), jnp.ones((4, 3))
    t = jnp.array([0, 10, 500, 999])
    xt = transitions.q_sample(FULL, x0, t, noise)
    perfect = target(FULL, x0, t, noise)
    loss = losses.simple_loss(FULL, x0, xt, t, noise, perfect, predict=own)
    np.testing.assert_array_equal(loss, 0)
    off = losses.simple_loss(FULL, x0, xt, t, noise, perfect + 2, predict=own)
    np.testing.assert_allclose(off, 4, rtol=1e-5)

    def network(x, t):
        a, _, skip, scale = parts(FULL, t, x)
        mean = MEAN + skip * (x - a * MEAN)  # E[x_0 | x_t]
        return (mean - skip * x) / scale

    x = samplers.sample(KEY, denoiser(network, predict=own), SHORT, (64, 64))
    assert abs(np.mean(x) - MEAN) < 4 * SPREAD / 64
    assert abs(np.std(x) / SPREAD - 1) < 0.06
    with pytest.raises(ValueError, match="a weight needs the eps_error of karras"):
        losses.min_snr(predict=own)
    with pytest.raises(ValueError, match="training needs a target"):
        losses.simple_loss(FULL, x0, xt, t, noise, perfect, predict=read)


def test_a_denoiser_may_be_made_of_denoisers():
    def between(schedule, x, i, *, strong, weak, scale):
        first, second = strong(schedule, x, i), weak(schedule, x, i)
        eps = second.eps + scale * (first.eps - second.eps)
        said = transitions.from_eps(schedule, x, i, eps)
        return Estimate(said.x0, eps, first.variance)

    strong, weak = denoiser(normal_network("eps")), denoiser(lambda x, t: 0.5 * x)
    x = samplers.sample(
        KEY, Denoiser(between, strong=strong, weak=weak, scale=1.0), SHORT, (2, 3)
    )
    np.testing.assert_allclose(
        x, samplers.sample(KEY, strong, SHORT, (2, 3)), atol=1e-5
    )
    terminal = schedules.make_schedule(schedules.zero_terminal_snr(BETAS))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        nested = Denoiser(between, strong=strong, weak=weak, scale=1.0)
        samplers.sample(KEY, nested, terminal, (2, 3))


def test_guidance_of_a_denoiser_reads_as_the_denoiser():
    def conditional(x, t, label):
        return 0.1 * x + 0.2 * label.astype(x.dtype)[:, None]

    read = {"predict": transitions.from_v, "clip": guidance.clip_static(0.5)}
    arguments = (jnp.array([1, 2]), 0, 3.0)
    network = guidance.classifier_free(conditional, *arguments, rescale=0.5)
    guided = guidance.classifier_free(
        denoiser(conditional, **read), *arguments, rescale=0.5
    )
    expected = samplers.sample(KEY, denoiser(network, **read), SHORT, (2, 3))
    x = samplers.sample(KEY, guided, SHORT, (2, 3))
    np.testing.assert_array_equal(x, expected)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class Module:
    """As Equinox has them: arrays, a function and a switch among the leaves."""

    weight: jax.Array
    activation: object
    whole: int

    def __call__(self, x, t):
        traces.append(1)
        assert type(self.whole) is int
        return self.weight * self.activation(x)

    def tree_flatten(self):
        return (self.weight, self.activation, self.whole), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


traces = []


def test_any_callable_pytree_is_a_network():
    """Arrays are arguments of the program, functions and whole numbers part of it."""
    one, two = (Module(jnp.asarray(w), jnp.tanh, 3) for w in (0.5, 0.6))
    traces.clear()
    for use in (
        lambda f: samplers.sample(KEY, f, SHORT, (2, 3)),
        lambda f: likelihood.bits_per_dim(KEY, f, SHORT, jnp.ones((2, 3))).terms,
        lambda f: editing.inpaint(KEY, f, SHORT, jnp.ones((2, 3)), jnp.zeros(3)),
        lambda f: samplers.ddim_invert(f, SHORT, jnp.ones((2, 3))),
    ):
        before = len(traces)
        assert np.abs(use(one) - use(two)).max() > 0
        assert len(traces) == before + 1
    expected = samplers.sample(
        KEY, Partial(lambda w, x, t: w * jnp.tanh(x), 0.6), SHORT, (2, 3)
    )
    np.testing.assert_array_equal(samplers.sample(KEY, two, SHORT, (2, 3)), expected)


def test_closures_are_values():
    def scaled(x, *, factor, power, inner=None):
        return factor * x**power

    one, two = (
        Closure(scaled, factor=2.0, power=3),
        Closure(scaled, factor=5.0, power=3),
    )
    assert one(2.0) == 16.0 and jax.tree.leaves(one) == [2.0]
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert jax.tree.structure(one) != jax.tree.structure(one.replace(power=2))
    assert one.replace(factor=3.0)(2.0) == 24.0
    # Shapes, places and names stand at the leaves as arrays do.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), float), one)
    assert jax.tree.structure(shapes) == jax.tree.structure(one)
    nested = Closure(scaled, factor=jnp.ones(2), power=2, inner=one)
    assert len(jax.tree.leaves(nested)) == 2
    assert jax.tree.structure(jax.tree.map(str, nested)) == jax.tree.structure(nested)
    assert repr(one) == "scaled(factor=2.0, power=3)"
    with pytest.raises(ValueError, match="arrays, pytrees of them, or hashable"):
        Closure(scaled, factor={1, 2})


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: denoiser(half, predict="v"), "predict must be a function.*got 'v'"),
        (lambda: denoiser(half, clip=True), "clip must be a function.*got True"),
        (lambda: denoiser(half, variance=None), "variance must be a function"),
        (lambda: denoiser(3), "network must be a function"),
        (lambda: denoiser(denoiser(half)), "got a denoiser"),
        (lambda: draw(sampler=samplers.ddim), r"sampler must be .*: call it"),
        (lambda: draw(sampler="ddim"), "sampler must be a Sampler.*got 'ddim'"),
        (lambda: draw(sampler=NO_X), "whose field x is the current sample; got tuple"),
        (
            lambda: likelihood.bits_per_dim(KEY, half, SHORT, 255 * jnp.ones((1, 2))),
            r"data must lie in \[-1, 1\]; got values 255..255",
        ),
        (lambda: schedules.make_schedule("cosine"), "non-empty vector.*got 'cosine'"),
        (lambda: schedules.make_schedule(1000), "non-empty vector.*got 1000"),
    ],
)
def test_where_a_stranger_errs(call, line):
    with pytest.raises(ValueError, match=line):
        call()


def half(x, t):
    return 0.5 * x


def draw(**how):
    return samplers.sample(KEY, half, SHORT, (2, 3), **how)


NO_X = samplers.Sampler(lambda schedule, x: (x,), samplers.ddim().step)


def test_a_sampler_of_ones_own():
    """Euler's step on the probability flow in x / alpha: DDIM under another name."""

    def init(schedule, x):
        return SampleState(x)

    def step(key, denoise, schedule, state, i):
        estimate = denoise(schedule, state.x, i)
        prev = jnp.where(i > 0, schedule.sqrt_recipm1_alphas_cumprod[i - 1], 0.0)
        alpha = jnp.sqrt(schedule.alphas_cumprod_prev[i])
        y = state.x * schedule.sqrt_recip_alphas_cumprod[i]
        y = y + (prev - schedule.sqrt_recipm1_alphas_cumprod[i]) * estimate.eps
        return SampleState(alpha * y), samplers.StepInfo(estimate.x0)

    own = draw(sampler=samplers.Sampler(init, step))
    np.testing.assert_allclose(own, draw(sampler=samplers.ddim()), atol=2e-3)


@pytest.mark.processes
def test_the_folder_can_be_copied_into_another_project(tmp_path):
    source = pathlib.Path(samplers.__file__).parent.parent
    shutil.copytree(
        source,
        tmp_path / "theirs" / "math",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "theirs" / "__init__.py").touch()
    code = (
        "import sys; sys.modules['ddpm_jax'] = None\n"
        "import jax\n"
        "from theirs.math import samplers, schedules\n"
        "chain = schedules.make_schedule(schedules.linear_betas(10, end=0.4))\n"
        "x = samplers.sample(jax.random.key(0), lambda x, t: 0.1 * x, chain, (2, 3))\n"
        "print(x.shape)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(2, 3)\n", done.stderr

"""The same batch gives the same loss and gradient on any layout of devices."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.importance import loss_second_moment, uniform_steps
from ddpm_jax.diffusion.losses import simple_loss
from ddpm_jax.diffusion.schedules import linear_betas, make_schedule
from ddpm_jax.training import parallel
from ddpm_jax.training.parallel import Chosen, Resident
from ddpm_jax.training.state import adam, init_state
from ddpm_jax.training.step import make_train_step

BATCH, STEPS, UPDATES = 32, 5, 3


class Net(nn.Module):
    """Convolution, norm, label, dropout: all that a U-Net does to an example."""

    @nn.compact
    def __call__(self, x, t, label, train):
        h = nn.Conv(16, (3, 3))(x) + nn.Embed(4, 16)(label)[:, None, None]
        h = nn.swish(nn.GroupNorm(4)(h * (1 + t[:, None, None, None] / STEPS)))
        h = nn.Dropout(0.5, deterministic=not train)(h)
        return nn.Conv(x.shape[-1], (3, 3))(h)


def data():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    return Resident(images, np.arange(50, dtype=np.int32) % 3)


def chosen(step):
    index = np.random.default_rng(step).integers(0, 50, BATCH).astype(np.int32)
    return Chosen(index, np.arange(BATCH, dtype=np.int32))


def make(accumulate=1, step_sampler=None):
    """(train_step, initial_state) of a small run."""
    net, schedule = Net(), make_schedule(linear_betas(STEPS, end=0.3))
    step_sampler = step_sampler or uniform_steps(STEPS)
    tx = adam(learning_rate=0.01, clip_norm=0.1)
    train_step = make_train_step(
        net.apply,
        schedule,
        tx,
        loss=simple_loss,
        step_sampler=step_sampler,
        ema_decay=0.9,
        flip=True,
        label_dropout=0.3,
        null_label=3,
        accumulate=accumulate,
    )

    def initial():
        x, one = jnp.zeros((1, 4, 4, 1)), jnp.zeros(1, jnp.int32)
        params = net.init(jax.random.key(0), x, one, one, False)["params"]
        return init_state(jax.random.key(1), params, tx, step_sampler.init())

    return train_step, initial


def train(make_runner, **options):
    """Loss and gradient norm of each update, the last weights, the number of traces."""
    train_step, initial = make(**options)
    traces = []

    def counted(*args, **kwargs):
        traces.append(1)
        return train_step(*args, **kwargs)

    runner = make_runner(counted, jax.eval_shape(initial))
    state, resident = runner.make_state(initial), runner.place_data(data())
    seen = []
    for step in range(UPDATES):
        state, metrics = runner.update(state, resident, chosen(step))
        seen.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(seen), jax.device_get(state.params), len(traces)


def jit_on(count, fsdp=1, by_hand=False):
    def runner(step, abstract):
        mesh = parallel.make_mesh(jax.devices()[:count], fsdp=fsdp)
        return parallel.jit_runner(step, mesh, abstract, by_hand=by_hand)

    return runner


@pytest.fixture(scope="module")
def alone():
    return train(jit_on(1))


@pytest.mark.parametrize(
    ("make_runner", "accumulate"),
    [
        (jit_on(8), 1),
        (jit_on(8, fsdp=4), 1),
        (jit_on(1), 4),
        (jit_on(2), 4),
        (jit_on(8, by_hand=True), 1),
        (jit_on(4, by_hand=True), 4),
        (parallel.pmap_runner, 1),
        (parallel.pmap_runner, 4),
    ],
    ids=[
        *("jit 8", "jit 2x4", "accumulate 4", "jit 2, accumulate 4", "by hand"),
        *("by hand, accumulate 4", "pmap", "pmap 4"),
    ],
)
def test_every_layout_is_the_same_run(alone, make_runner, accumulate, monkeypatch):
    monkeypatch.setattr(parallel, "SPLIT_SIZE", 16)  # so that these weights do split
    seen, params, traces = train(make_runner, accumulate=accumulate)
    np.testing.assert_allclose(seen, alone[0], rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, alone[1]
    )
    assert traces == 1


def test_importance_sampling_is_the_same_on_every_layout():
    runs = [
        train(make, accumulate=count, step_sampler=loss_second_moment(STEPS, history=2))
        for make, count in [
            (jit_on(1), 1),
            (jit_on(8), 1),
            (jit_on(8, by_hand=True), 2),
            (parallel.pmap_runner, 2),
        ]
    ]
    for seen, _, _ in runs[1:]:
        np.testing.assert_allclose(seen, runs[0][0], rtol=2e-5)


def test_the_history_of_losses_does_not_depend_on_the_order_of_the_rows():
    """Processes bring the places of a batch in turn: 0, 2, 4, ..., 1, 3, 5, ..."""
    step, initial = make(step_sampler=loss_second_moment(STEPS, history=2))
    step, state = jax.jit(step), initial()
    ours, theirs = state, state
    for number in range(UPDATES):
        batch = parallel.fetch(data(), chosen(number))
        turned = jax.tree.map(lambda x: np.concatenate([x[::2], x[1::2]]), batch)
        ours, theirs = step(ours, batch)[0], step(theirs, turned)[0]
    for a, b in zip(ours.steps_state, theirs.steps_state, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5)


def test_large_leaves_are_split_and_small_ones_are_not():
    mesh = parallel.make_mesh(fsdp=4)
    leaves = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32),
        "odd": jax.ShapeDtypeStruct((999, 333), jnp.float32),
        "bias": jax.ShapeDtypeStruct((512,), jnp.float32),
    }
    specs = {k: v.spec for k, v in parallel.state_shardings(mesh, leaves).items()}
    assert specs["kernel"] == jax.P(None, None, None, "fsdp")
    assert specs["odd"] == jax.P(None, None)
    assert specs["bias"] == jax.P(None)


def test_layouts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fsdp must divide the number of devices, 8"):
        parallel.make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="4 micro-batches x 8 devices; got 48"):
        parallel.check_divisible(48, 4, 8)


def reduced(program):
    """(kind, number of elements) of every exchange between devices in a program.

    None is in a loop, where it would be many.
    """
    found, entry = [], False
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for line in program.as_text().splitlines():
        if line.endswith("{"):
            entry = line.startswith("ENTRY")
        if exchange := re.search(rf" = (.*?) ({kinds})(-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", exchange[1])
            sizes = (math.prod(map(int, filter(None, x.split(",")))) for x in shapes)
            found.append((exchange[2], sum(sizes)))
            assert entry, line
    return found


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_reduces_the_gradient_once_and_gathers_nothing(accumulate):
    step, initial = make(accumulate)
    abstract = jax.eval_shape(initial)
    mesh, by_hand = parallel.make_mesh(), accumulate > 1
    runner = parallel.jit_runner(step, mesh, abstract, by_hand=by_hand)
    program = runner.program.lower(abstract, data(), chosen(0)).compile()
    parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
    exchanges = reduced(program)
    assert {kind for kind, _ in exchanges} == {"all-reduce"}
    sizes = sorted(size for _, size in exchanges)
    scalars = 2
    assert parameters <= sum(sizes) <= parameters + scalars

"""Which spacing of the steps suits which solver, at 5 to 50 network calls.

    python benchmarks/solvers.py --workdir runs/digits [runs/cosine ...]

Normal data: the exact network for N(0, s^2), so that what comes out of x_T = 1 should
be s; shown is the error of that standard deviation. The digits: the Frechet distance
between 512 labelled samples and the training digits, in the 64 features of a small
classifier that is trained here, mean and standard deviation over the seeds.

The yardstick is DDIM with its default spacing and as many calls (Heun makes two a step
and one at the last: at 20 calls 10 steps, 19 calls). "Before" is what `sample.py` did
before solvers had spacings of their own: "uniform", and order 2 in the step into
index 0.
"""

import argparse
import pathlib
import time
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from measure import write

import ddpm_jax
from ddpm_jax import build
from ddpm_jax.config import ScheduleConfig
from ddpm_jax.data import load_digits
from ddpm_jax.diffusion import samplers, solver_spacing
from ddpm_jax.diffusion.closures import Closure
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.images import to_uint8

RESULTS = pathlib.Path(__file__).parent / "results"
CALLS = (5, 8, 10, 15, 20, 30, 50)
DIGITS_CALLS = (5, 8, 10, 20)
NOT_ON_DIGITS = ("trailing", "karras")  # which are not best on normal data either
HIGH_ORDER_END = {"lower_order_final": False}
# sampler, spacing, further options
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("ddim", "uniform", {}),
    ("ddim", "trailing", {}),
    ("dpm_solver_pp", "uniform", HIGH_ORDER_END),
    ("dpm_solver_pp", "uniform", {}),
    ("dpm_solver_pp", "trailing", {}),
    ("dpm_solver_pp", "karras", {}),
    ("dpm_solver_pp", "logsnr", {}),
    ("unipc", "uniform", HIGH_ORDER_END),
    ("unipc", "uniform", {}),
    ("unipc", "trailing", {}),
    ("unipc", "karras", {}),
    ("unipc", "logsnr", {}),
    ("heun", "uniform", {}),
    ("heun", "logsnr", {}),
    ("heun", "karras", {}),
    ("heun", "heun", {}),
]


def shown(sampler: Sampler, name: str, spacing: str, options: dict[str, Any]) -> str:
    """The name of a row."""
    text = f"{name}, {spacing}"
    if options or (name == "heun" and spacing == "uniform"):
        text += " (before)"
    return text + (" (default)" if spacing == sampler.spacing else "")


def steps_of(name: str, calls: int) -> int:
    """How many steps a sampler makes of at most so many network calls."""
    return (calls + 1) // 2 if name == "heun" else calls


def exact(x: jax.Array, t: jax.Array, *, log_alpha: jax.Array, std: float):
    """eps for data N(0, std^2) at any real step t."""
    steps = jnp.arange(len(log_alpha), dtype=log_alpha.dtype)
    alpha = jnp.exp(jnp.interp(t.astype(log_alpha.dtype), steps, log_alpha))[:, None]
    variance = 1 - alpha**2
    return jnp.sqrt(variance) * x / (alpha**2 * std**2 + variance)


def normal_errors(kind: Any, std: float) -> dict[str, dict[int, float]]:
    """The error of the standard deviation, by row and calls."""
    config = ScheduleConfig(kind=kind)
    log_alpha = 0.5 * np.cumsum(np.log1p(-build.make_betas(config)))
    network = Closure(exact, log_alpha=jnp.asarray(log_alpha, float), std=std)
    x, table = jnp.ones((1, 1)), {}
    for name, spacing, options in ROWS:
        sampler = getattr(samplers, name)(**options)
        errors = {}
        for calls in CALLS:
            chain = build.make_schedule(
                config, steps=steps_of(name, calls), spacing=spacing
            )
            std_0 = samplers.sample(
                0, network, chain, x.shape, sampler=sampler, x_init=x
            )
            errors[calls] = abs(float(std_0[0, 0]) - std)
        table[shown(sampler, name, spacing, options)] = errors
    return table


def cut_effect(std: float) -> dict[str, dict[str, float]]:
    """Ten steps on the cosine chain with and without the cut, by spacing.

    How many lie below lambda = -5.1, and the solvers' errors for data N(0, std^2).
    """
    config = ScheduleConfig(kind="cosine")
    betas = build.make_betas(config)
    log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
    lambdas = log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))
    network = Closure(exact, log_alpha=jnp.asarray(log_alpha, float), std=std)
    x, table = jnp.ones((1, 1)), {}
    for spacing in ("logsnr", "karras"):
        for cut in (-np.inf, solver_spacing.LAMBDA_MIN):
            positions = build.SOLVER_SPACINGS[spacing](betas, 10, lambda_min=cut)
            chain = solver_spacing.interpolated_schedule(betas, positions)
            below = np.interp(positions, range(1000), lambdas) < -5.11
            row = {"steps below -5.1": float(below.sum())}
            for name in ("dpm_solver_pp", "unipc", "heun"):
                sampler = build.make_sampler(name)
                std_0 = samplers.sample(
                    0, network, chain, (1, 1), sampler=sampler, x_init=x
                )
                row[name] = abs(float(std_0[0, 0]) - std)
            table[f"{spacing}, lambda_min {cut:g}"] = row
    return table


class Classifier(nn.Module):
    """Digits to logits, by way of 64 features."""

    @nn.compact
    def __call__(self, x: jax.Array, *, features: bool = False) -> jax.Array:
        """(n, 8, 8, 1) in [-1, 1] -> (n, 10) logits, or (n, 64) features."""
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return x if features else nn.Dense(10)(x)


def as_input(images: np.ndarray) -> jax.Array:
    """uint8 images in [-1, 1]."""
    return jnp.asarray(images / 127.5 - 1, jnp.float32)


@jax.jit
def trained(images: jax.Array, labels: jax.Array) -> Any:
    """The classifier's parameters after 600 steps of Adam on batches of 128."""
    network, optimizer = Classifier(), optax.adam(1e-3)
    params = network.init(jax.random.key(0), images[:1])

    def loss(params: Any, index: jax.Array) -> jax.Array:
        logits = network.apply(params, images[index])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[index]
        ).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        index = jax.random.randint(key, (128,), 0, len(images))
        updates, state = optimizer.update(jax.grad(loss)(params, index), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), 600)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), float64."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second @ root)
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    traces = np.trace(first) + np.trace(second)
    return float(apart + traces - 2 * np.sqrt(np.maximum(cross, 0)).sum())


def digits_distances(
    workdir: pathlib.Path, *, num: int, seeds: int
) -> dict[str, dict[str, list[float]]]:
    """Frechet distances of one seed each, by row and calls."""
    train, test = load_digits("train"), load_digits("test")
    params = trained(as_input(train.images), jnp.asarray(train.labels))
    embed = jax.jit(partial(Classifier().apply, params, features=True))

    def features(images: np.ndarray) -> np.ndarray:
        return np.asarray(embed(as_input(images)), np.float64)

    real = features(train.images)
    table = {"held-out digits": {"": [frechet(features(test.images), real)]}}
    model, batch = ddpm_jax.load(workdir), 128
    label = jnp.arange(batch) % 10

    def draw(seed: int, sampler: Sampler, steps: int, spacing: str) -> np.ndarray:
        keys = [1000 * seed + i for i in range(num // batch)]
        how = {"sampler": sampler, "steps": steps, "spacing": spacing, "label": label}
        return np.concatenate(
            [to_uint8(model.sample(key, batch, progress=False, **how)) for key in keys]
        )

    for name, spacing, options in ROWS:
        if spacing in NOT_ON_DIGITS:
            continue
        began = time.perf_counter()
        sampler = getattr(samplers, name)(**options)
        row = {}
        for calls in DIGITS_CALLS:
            how = (sampler, steps_of(name, calls), spacing)
            drawn = [draw(seed, *how) for seed in range(seeds)]
            row[str(calls)] = [frechet(features(images), real) for images in drawn]
        label_of_row = shown(sampler, name, spacing, options)
        table[label_of_row] = row
        print(f"{label_of_row}: {time.perf_counter() - began:.0f} s", flush=True)
    return table


def print_table(title: str, table: dict[str, dict], form: Any) -> None:
    """A table in Markdown."""
    columns = list(dict.fromkeys(key for row in table.values() for key in row if key))
    print(f"\n| {title} | " + " | ".join(map(str, columns)) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in table.items():
        cells = [form(row[key]) if key in row else "" for key in columns]
        if "" in row:
            cells[0] = form(row[""])
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measures, prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--num", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "solvers.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"cut": {}, "normal": {}, "digits": {}}
    for std in (0.5, 1.5):
        title = f"cosine, N(0, {std}^2), 10 steps"
        result["cut"][title] = cut_effect(std)
        print_table(title, result["cut"][title], "{:.3g}".format)
    for kind in ("linear", "cosine"):
        for std in (0.5, 1.5):
            title = f"{kind}, N(0, {std}^2)"
            result["normal"][title] = normal_errors(kind, std)
            form = "{:.4f}".format
            print_table(f"{title}, calls", result["normal"][title], form)
    for workdir in options.workdir:
        table = digits_distances(workdir, num=options.num, seeds=options.seeds)
        kind = ddpm_jax.load(workdir).config.diffusion.schedule.kind
        result["digits"][kind] = table
        print_table(
            f"digits, {kind}, calls",
            table,
            lambda value: f"{np.mean(value):.2f} ± {np.std(value):.2f}",
        )
    write(options.out, result)


if __name__ == "__main__":
    main()

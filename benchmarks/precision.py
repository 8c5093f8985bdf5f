"""bfloat16 against float32: what it changes in training, in a call, in a sample.

    python benchmarks/precision.py --workdir runs/digits

The loss over the first updates of the digits run, one call of every shipped network, a
walk of DDIM by the run's weights, and whether one device and eight agree. An error is
the root mean square of the difference over that of the float32 result.
"""

import argparse
import dataclasses
import multiprocessing
import pathlib
import runpy
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from collectives import collectives
from measure import environment, keep
from worker_jax import spread_out

import ddpm_jax
from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.images import to_uint8
from ddpm_jax.training import parallel
from ddpm_jax.training.feed import make_feed
from ddpm_jax.training.setup import make_update

HERE = pathlib.Path(__file__).parent
NETWORKS = ("digits", "cifar10", "cifar10_improved", "celeba64", "lsun256")
DTYPES = ("float32", "bfloat16")
PARTS = ("loss", "call", "ddim", "devices")
WINDOW = 50  # updates whose losses are averaged


def shipped(name: str) -> Config:
    """The config of that name."""
    return runpy.run_path(str(HERE.parent / "configs" / f"{name}.py"))["get_config"]()


def with_dtype(config: Config, dtype: str) -> Config:
    """The config with the network computing in that type."""
    return dataclasses.replace(
        config, network=dataclasses.replace(config.network, dtype=dtype)
    )


def relative(found: Any, exact: Any) -> float:
    """The error of arrays, or of pytrees of them."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    squares = [
        [np.sum(np.square(np.float64(a) - np.float64(b))), np.sum(np.square(b))]
        for a, b in pairs
    ]
    error, size = np.sum(squares, axis=0, dtype=np.float64)
    return float(np.sqrt(error / size))


class Training:
    """The digits run on the first so many devices."""

    def __init__(self, dtype: str, devices: int = 1):
        config = with_dtype(shipped("digits"), dtype)
        self.feed = make_feed(config.data, build.load_images(config.data, "train"))
        step, initial = make_update(config)
        mesh = parallel.make_mesh(jax.devices()[:devices])
        runner = parallel.jit_runner(step, mesh, jax.eval_shape(initial))
        self.update, self.state = runner.update, runner.make_state(initial)
        self.data = runner.place_data(self.feed.resident)
        self.batches = self.feed.batches(0, config.train.batch_size, 0)
        self.lowered = lambda batch: runner.program.lower(self.state, self.data, batch)

    def losses(self, count: int) -> np.ndarray:
        """Of so many updates more."""
        found = []
        for _ in range(count):
            self.state, metrics = self.update(self.state, self.data, next(self.batches))
            found.append(float(metrics["loss"]))
        return np.array(found)

    def gradient(self) -> Any:
        """Of the first update, clipped, up to a factor: Adam's first moment."""
        return jax.device_get(optax.tree.get(self.state.opt_state, "mu"))


def loss_curves(count: int) -> dict[str, Any]:
    """The means of `WINDOW` losses in both types, and how far they lie apart."""
    means = {
        dtype: Training(dtype).losses(count).reshape(-1, WINDOW).mean(1)
        for dtype in DTYPES
    }
    exact, found = (means[dtype] for dtype in DTYPES)
    apart = np.abs(found / exact - 1)
    return {
        **{dtype: [*mean] for dtype, mean in means.items()},
        "largest_difference": apart.max(),
        "last_difference": apart[-1],
    }


def one_call(name: str) -> float:
    """The error of one call of a network, of one image, with every kernel drawn."""
    config = shipped(name)
    data, unet = config.data, build.make_network(config)
    init = jax.jit(lambda key: build.init_params(key, unet, data))
    params = spread_out(init(jax.random.key(0)))
    shape = (1, data.image_size, data.image_size, data.channels)
    x = jax.random.normal(jax.random.key(1), shape)
    t = jnp.full((1,), config.diffusion.schedule.num_steps // 2)

    def call(dtype):
        network = unet.clone(dtype=jnp.dtype(dtype))
        return jax.jit(lambda p, x: network.apply({"params": p}, x, t))(params, x)

    return relative(call("bfloat16"), call("float32"))


def ddim_walk(workdir: pathlib.Path, steps: int = 20) -> dict[str, Any]:
    """The error after every step of the same walk, and of the images in grey levels."""
    model = ddpm_jax.load(workdir)
    walks = {}
    for dtype in DTYPES:
        network = model.network.clone(dtype=jnp.dtype(dtype))
        chosen = dataclasses.replace(model, network=network)
        label = jnp.arange(100) % (model.config.data.num_classes or 1)
        walk = chosen.sample_iter(
            jax.random.key(0),
            100,
            sampler="ddim",
            steps=steps,
            label=None if model.config.data.num_classes is None else label,
        )
        walks[dtype] = [np.asarray(x) for _, x in walk]
    exact, found = (walks[dtype] for dtype in DTYPES)
    levels = np.abs(np.int32(to_uint8(found[-1])) - np.int32(to_uint8(exact[-1])))
    return {
        "by_step": [relative(a, b) for a, b in zip(found, exact, strict=True)],
        "mean_levels": levels.mean(),
        "levels_99_percent": np.percentile(levels, 99),
    }


def devices_agree(count: int) -> dict[str, Any]:
    """One device and eight: the first gradient's difference, and the losses'.

    For a fresh process: the number of devices is set before JAX looks for them.
    """
    jax.config.update("jax_num_cpu_devices", 8)
    result: dict[str, Any] = {}
    first: dict[tuple[str, int], Any] = {}
    for dtype in DTYPES:
        losses = []
        for devices in (1, 8):
            run = Training(dtype, devices)
            if devices > 1:
                program = run.lowered(next(run.feed.batches(0, 64, 0))).compile()
                result[f"collectives_{dtype}"] = collectives(program.as_text())
            head = run.losses(1)
            first[dtype, devices] = run.gradient()
            losses.append(np.concatenate([head, run.losses(count - 1)]))
        result[dtype] = {
            "gradient": relative(first[dtype, 8], first[dtype, 1]),
            "losses": float(np.abs(losses[1] / losses[0] - 1).max()),
        }
    apart = relative(first["bfloat16", 1], first["float32", 1])
    result["gradient_bfloat16_against_float32"] = apart
    return result


def measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part of the table, shown."""
    if part == "loss":
        found = loss_curves(options.updates)
        print(
            f"loss of {options.updates} updates, means of {WINDOW}: at most "
            f"{found['largest_difference']:.2%} apart, the last "
            f"{found['last_difference']:.2%}"
        )
    elif part == "call":
        found = {}
        for name in options.networks:
            found[name] = one_call(name)
            print(f"one call, {name:17} {found[name]:.2%}", flush=True)
    elif part == "ddim":
        found = ddim_walk(options.workdir)
        print(
            f"20 steps of DDIM: {found['by_step'][-1]:.2%}; "
            f"{found['mean_levels']:.2f} grey levels of 255 in the mean, 99 % of "
            f"pixels at most {found['levels_99_percent']:.0f}"
        )
    else:
        fresh, count = multiprocessing.get_context("spawn"), options.updates_on_devices
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            found = pool.submit(devices_agree, count).result()
        for dtype in DTYPES:
            print(
                f"one device and eight, {dtype}: first gradient "
                f"{found[dtype]['gradient']:.1e}, losses of {count} updates at most "
                f"{found[dtype]['losses']:.1e}; {found[f'collectives_{dtype}']}"
            )
        apart = found["gradient_bfloat16_against_float32"]
        print(f"first gradient, bfloat16 against float32: {apart:.1e}")
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--workdir", type=pathlib.Path, help="a run, for the walk")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--updates-on-devices", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    if options.updates % WINDOW:
        parser.error(f"--updates must be a multiple of {WINDOW}")
    platform = jax.devices()[0].platform
    out = options.out or HERE / "results" / f"precision_{platform}.json"
    for part in options.parts:
        if part != "ddim" or options.workdir is not None:
            found = measured(part, options)
            keep(out, part, found | {"environment": environment()})


if __name__ == "__main__":
    main()

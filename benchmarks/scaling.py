"""Time per image against batch, image side, channels, sampler steps and devices.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --workdir runs/digits --images 50000

A small network stands for all. In a sweep the sizes take turns; shown are the time of
an update and of a step of DDIM's walk, per image, and how it grows: the exponent p of
size^p between the two largest. Devices are virtual ones of this machine's cores: their
time says what the division costs, and never what real ones would gain; what counts is
the collectives of the compiled program. With a workdir, sample.py draws that many
images by 20 steps of DDIM, from the start of the program to the last written byte.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from collectives import sweep_devices
from measure import environment, keep, spread, take_turns
from train_step import random_batch

from ddpm_jax import build
from ddpm_jax.config import Config, DataConfig, NetworkConfig
from ddpm_jax.diffusion import samplers
from ddpm_jax.figures import style
from ddpm_jax.training.setup import make_update

HERE = pathlib.Path(__file__).parent
FIGURE = HERE.parent / "docs/figures/scaling.png"
WALK = 4  # steps of the walk of which one is shown
STEPS = (2, 5, 10, 20, 50, 100)


class Size(NamedTuple):
    """One point of a sweep."""

    batch: int = 64
    side: int = 8
    channels: int = 32


SWEEPS: dict[str, list[Size]] = {
    "batch": [Size(batch=4**i) for i in range(5)],
    "side": [Size(batch=8, side=side) for side in (8, 16, 32, 64)],
    "channels": [Size(batch=16, channels=c) for c in (32, 64, 128, 256)],
}
DEVICES_SIZE = Size(batch=64, channels=64)  # whose largest kernels fsdp divides


def config_of(size: Size) -> Config:
    """Two resolutions, a residual block each; attention in the middle."""
    return Config(
        data=DataConfig(source="given", image_size=size.side, channels=3),
        network=NetworkConfig(
            channels=size.channels,
            multipliers=(1, 2),
            num_blocks=1,
            attention_resolutions=(),
            dropout=0.0,
            num_groups=8,
        ),
    )


class Update:
    """An update, compiled when it is first called."""

    def __init__(self, size: Size):
        step, _ = make_update(config_of(size))
        self.step = jax.jit(step, donate_argnums=0)
        self.batch = random_batch(config_of(size), size.batch)
        self.state = jax.tree.map(jnp.copy, first_state(size.channels))

    def __call__(self) -> Any:
        """One update."""
        self.state, metrics = self.step(self.state, self.batch)
        return metrics


@functools.cache
def first_state(channels: int) -> Any:
    """The state before the first update, which is that of every batch and side."""
    return jax.jit(make_update(config_of(Size(channels=channels)))[1])()


def walk_of(size: Size, steps: int = WALK) -> Callable[[], jax.Array]:
    """DDIM's walk, compiled when it is first called."""
    config, params = config_of(size), first_state(size.channels).params
    network = build.bound_network(build.make_network(config), params)
    denoise = build.make_denoiser(config.diffusion, network)
    schedule = build.make_schedule(config.diffusion.schedule, steps=steps)
    shape = (size.batch, size.side, size.side, 3)
    return lambda: samplers.sample(
        jax.random.key(1), denoise, schedule, shape, sampler=samplers.ddim()
    )


def sweep(name: str, repeats: int) -> dict[str, dict[int, Any]]:
    """Milliseconds per image of an update and of a sampler's step, by size."""
    result = {}
    for what in ("update", "sampler step"):
        calls: dict[str, Callable[[], Any]] = {}
        for size in SWEEPS[name]:
            value = str(getattr(size, name))
            if what == "update":
                calls[value] = Update(size)
            else:
                calls[value] = walk_of(size)
        times = take_turns(calls, repeats=repeats)
        parts = {
            getattr(size, name): size.batch * (1 if what == "update" else WALK)
            for size in SWEEPS[name]
        }
        result[what] = {x: spread(times[str(x)] / n) for x, n in parts.items()}
    return result


def sweep_steps(repeats: int) -> dict[str, dict[int, Any]]:
    """Milliseconds per image of whole walks, by their steps."""
    size = Size()
    calls = {str(steps): walk_of(size, steps) for steps in STEPS}
    times = take_turns(calls, repeats=repeats)
    rows = {steps: spread(times[str(steps)] / size.batch) for steps in STEPS}
    return {"sample": rows}


def draw_many(workdir: pathlib.Path, images: int, batch: int) -> dict[str, Any]:
    """sample.py as a user calls it: seconds from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"workdir": workdir, "out": folder, "num": images}
        options |= {"sampler": "ddim", "steps": 20, "batch-size": batch}
        listed = [str(x) for name, v in options.items() for x in (f"--{name}", v)]
        began, before = time.perf_counter(), os.times().children_user
        # JAX, imported here, has set the level of a log that sample.py sets itself.
        environ = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        program = [sys.executable, str(HERE.parent / "sample.py")]
        subprocess.run([*program, *listed, "--npz"], check=True, env=environ)
        seconds = time.perf_counter() - began
    cores = os.times().children_user - before
    print(f"{images} images by 20 steps, {batch} at a time: {seconds:.0f} s")
    told = {"images": images, "batch_size": batch, "steps": 20}
    return told | {"seconds": seconds, "core_seconds": cores}


def exponent(rows: dict[int, dict[str, float]]) -> float:
    """p of size^p between the two largest sizes."""
    first, last = sorted(rows)[-2:]
    low, high = rows[first]["median_ms"], rows[last]["median_ms"]
    return float(np.log(high / low) / np.log(last / first))


def show(name: str, table: dict[str, Any]) -> None:
    """A sweep, a line each."""
    for what, rows in table.items():
        cells = "  ".join(f"{x}: {r['median_ms']:.3f}" for x, r in rows.items())
        print(f"{name:8} {what:12} ms an image  {cells}   p {exponent(rows):.2f}")


def measured(name: str, repeats: int) -> dict[str, Any]:
    """One part of the table, shown."""
    if name == "devices":
        fresh, size = multiprocessing.get_context("spawn"), DEVICES_SIZE
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            asked = (config_of(size), size.batch, repeats)
            rows = pool.submit(sweep_devices, *asked).result()
        for row in rows:
            print(
                f"devices {row['devices']}, fsdp {row['fsdp']}: "
                f"{row['median_ms']:.3f} ms an image, update {row['update']}, "
                f"sampler {row['sampler'] or 'none'}"
            )
        return {"rows": rows}
    table = sweep_steps(repeats) if name == "steps" else sweep(name, repeats)
    show(name, table)
    return table


def draw(sweeps: dict[str, Any], path: pathlib.Path) -> None:
    """The sweeps, a panel each."""
    names = {
        **{"batch": "batch size", "side": "image side, pixels"},
        "channels": "channels of the finest level",
        "steps": "steps of the sampler",
    }
    figure = style.new_figure(5.6)
    for axes, (name, table) in zip(
        figure.subplots(2, 2).flat, sweeps.items(), strict=True
    ):
        style.tidy(axes)
        lines = {what: rows for what, rows in table.items() if what != "environment"}
        for i, (what, rows) in enumerate(lines.items()):
            sizes = [int(size) for size in rows]
            times = [row["median_ms"] for row in rows.values()]
            style.curve(axes, i, sizes, times, what)
        axes.set(xscale="log", yscale="log", xticks=sizes, xticklabels=sizes)
        axes.minorticks_off()
        style.label(axes, x=names[name], y="ms an image")
        axes.legend(frameon=False, fontsize=style.SIZE - 1, labelcolor=style.INK)
    style.save(figure, path)
    print(f"wrote {path}")


def main() -> None:
    """Measures, prints, draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = (*SWEEPS, "steps", "devices")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--workdir", type=pathlib.Path, help="a run to draw from")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=256, help="of these images")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--figure", type=pathlib.Path, default=FIGURE)
    options = parser.parse_args()
    name = f"scaling_{jax.devices()[0].platform}.json"
    out = options.out or HERE / "results" / name
    for part in options.parts:
        found = measured(part, options.repeats)
        keep(out, part, found | {"environment": environment()})
    if options.workdir is not None:
        many = draw_many(options.workdir, options.images, options.batch_size)
        keep(out, "end_to_end", many | {"environment": environment()})
    whole = json.loads(out.read_text())
    if all(part in whole for part in (*SWEEPS, "steps")):
        draw({part: whole[part] for part in (*SWEEPS, "steps")}, options.figure)


if __name__ == "__main__":
    main()

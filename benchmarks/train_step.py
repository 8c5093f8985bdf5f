"""One update of the weights: time, throughput, FLOP/s, memory, compile time.

    python benchmarks/train_step.py --config configs/cifar10.py --batch-size 128

Runs the package's own step on random images, on all devices, in float32 and bfloat16,
by turns. Needs nothing but jax, flax and optax.
"""

import argparse
import dataclasses
import pathlib
import runpy
import time

import jax
import jax.numpy as jnp
import numpy as np
from measure import peak_memory, spread, take_turns, write

from ddpm_jax import build
from ddpm_jax.allocator import keep_freed_memory
from ddpm_jax.flops import model_flops
from ddpm_jax.training import parallel
from ddpm_jax.training.setup import make_update
from ddpm_jax.training.start import as_defined
from ddpm_jax.training.step import Batch

RESULTS = pathlib.Path(__file__).parent / "results"


class Run:
    """A compiled step with its state: call it to make one update."""

    def __init__(self, config, dtype: str, batch_size: int):
        network = dataclasses.replace(config.network, dtype=dtype)
        config = dataclasses.replace(config, network=network)
        step, initial = make_update(config)
        abstract = jax.eval_shape(initial)
        mesh = parallel.make_mesh()
        runner = parallel.jit_runner(step, mesh, abstract)
        self.batch = random_batch(config, batch_size)
        # Forward and backward of one batch, whatever the optimiser adds.
        plain, _ = make_update(config, as_defined(build.make_network(config)))
        self.flops = model_flops(plain, abstract, self.batch)
        self.state = runner.make_state(initial)
        self.update = runner.update
        began = time.perf_counter()
        self.first_loss = float(self()["loss"])
        self.compile_seconds = time.perf_counter() - began

    def __call__(self):
        """One update."""
        self.state, metrics = self.update(self.state, None, self.batch)
        return metrics


def random_batch(config, size: int) -> Batch:
    """Noise in the shape of the config's images."""
    rng, data = np.random.default_rng(0), config.data
    shape = (size, data.image_size, data.image_size, data.channels)
    label = None
    if data.num_classes is not None:
        label = rng.integers(0, data.num_classes, size).astype(np.int32)
    image = rng.integers(0, 256, shape, np.uint8)
    return Batch(image, label, np.arange(size, dtype=np.int32))


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=pathlib.Path, default="configs/digits.py")
    parser.add_argument("--batch-size", type=int, help="of all devices together")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    keep_freed_memory()  # as the programs do

    config = runpy.run_path(str(options.config))["get_config"]()
    size = options.batch_size or config.train.batch_size
    result, runs = {"config": options.config.stem, "batch_size": size}, {}
    for dtype in options.dtypes:
        runs[dtype] = Run(config, dtype, size)
        result[dtype] = {"memory_after": peak_memory()}
    times = take_turns(runs, repeats=options.repeats)
    for dtype, run in runs.items():
        median = float(np.median(times[dtype]))
        result[dtype] |= {
            **spread(times[dtype]),
            "images_per_second": 1e3 * size / median,
            "model_flops_per_step": run.flops,
            "model_flops_per_second": 1e3 * run.flops / median,
            "compile_seconds": run.compile_seconds,
            "parameters": sum(x.size for x in jax.tree.leaves(run.state.params)),
            "finite": bool(jnp.isfinite(run.first_loss)),
        }
        print(
            f"{dtype:9} {median:9.2f} ms/step  {1e3 * size / median:9.1f} images/s  "
            f"{run.flops / median / 1e9:7.3f} TFLOP/s  compiled in "
            f"{run.compile_seconds:.1f} s"
        )
    platform = jax.devices()[0].platform
    name = f"train_step_{options.config.stem}_{platform}.json"
    write(options.out or RESULTS / name, result)


if __name__ == "__main__":
    main()

"""A step of every sampler against the bare network call, by turns in one run.

    python benchmarks/sampler.py --config configs/cifar10.py --batch-size 64

Both sides are one compiled loop of the same length: the sampler's, and one that calls
the network and keeps its output. Needs nothing but jax, flax and optax.
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
from ddpm_jax.diffusion import samplers
from ddpm_jax.flops import model_flops
from ddpm_jax.training.start import as_defined

RESULTS = pathlib.Path(__file__).parent / "results"
CALLS = {"heun": lambda steps: 2 * steps - 1}  # network calls; the others make one each


@jax.jit
def bare(denoise, schedule, x):
    """As many network calls as the schedule has steps, each on the last output."""

    def body(x, t):
        output = denoise(x, jnp.full(x.shape[:1], t))
        return output[..., : x.shape[-1]], None

    return jax.lax.scan(body, x, schedule.timesteps[::-1])[0]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=pathlib.Path, default="configs/digits.py")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    keep_freed_memory()  # as the programs do

    config = runpy.run_path(str(options.config))["get_config"]()
    steps, size = options.steps, options.batch_size
    schedule = build.make_schedule(config.diffusion.schedule, steps=steps)
    data = config.data
    shape = (size, data.image_size, data.image_size, data.channels)
    x = jax.random.normal(jax.random.key(0), shape)
    result = {"config": options.config.stem, "batch_size": size, "steps": steps}
    for dtype in options.dtypes:
        chosen = dataclasses.replace(config.network, dtype=dtype)
        unet = build.make_network(dataclasses.replace(config, network=chosen))
        params = jax.jit(lambda key, u=unet: build.init_params(key, u, data))(
            jax.random.key(1)
        )
        network = build.bound_network(unet, params)
        denoise = build.make_denoiser(config.diffusion, network)
        calls, compiled = {"network": lambda n=network: bare(n, schedule, x)}, {}
        for name in build.SAMPLERS:
            sampler = build.make_sampler(name)
            calls[name] = lambda s=sampler, d=denoise: samplers.sample(
                jax.random.key(2), d, schedule, shape, sampler=s
            )
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            compiled[name] = time.perf_counter() - began
        times = take_turns(calls, repeats=options.repeats)
        plain = build.bound_network(as_defined(unet), params)
        flops = model_flops(plain, x, jnp.zeros(size, jnp.int32))
        rows = {}
        for name, milliseconds in times.items():
            count = CALLS.get(name, lambda n: n)(steps)
            each = milliseconds / count
            # The bare calls of the same turn: what the machine did, it did to both.
            overhead = 100 * (each / (times["network"] / steps) - 1)
            low, median, high = np.percentile(overhead, [25, 50, 75])
            rows[name] = {
                **spread(each),
                "overhead_percent": {"low": low, "median": median, "high": high},
                "images_per_second": 1e3 * size / np.median(milliseconds),
                "model_flops_per_second": 1e3 * flops / np.median(each),
                "compile_seconds": compiled[name],
            }
            print(
                f"{dtype:9} {name:14} {np.median(each):9.3f} ms a network call, "
                f"overhead {median:6.2f} % ({low:.2f} to {high:.2f})"
            )
        result[dtype] = {**rows, "memory": peak_memory()}
    platform = jax.devices()[0].platform
    name = f"sampler_{options.config.stem}_{platform}.json"
    write(options.out or RESULTS / name, result)


if __name__ == "__main__":
    main()

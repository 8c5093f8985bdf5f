"""What the programs of the shipped configs amount to, counted and not timed.

    python benchmarks/counted.py                  # everything: some minutes
    python benchmarks/counted.py --check          # what is cheap, against the kept file
    python benchmarks/counted.py --only digits    # some configs, the others as kept

Parameters, model FLOPs of an update and of a network call, what XLA's cost analysis
says of the update, its memory as the compiler plans it, its collectives on eight
devices; and the batch sizes that fit into a device's memory. No array is made.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
from collectives import collectives
from measure import write

from ddpm_jax import build
from ddpm_jax.experiments import read_config
from ddpm_jax.flops import model_flops
from ddpm_jax.networks import UNet
from ddpm_jax.networks.convolutions import DIRECT
from ddpm_jax.training import parallel
from ddpm_jax.training.setup import make_update
from ddpm_jax.training.start import abstract_batch

ROOT = pathlib.Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "counted.json"
CONFIGS = (
    *("smoke", "digits", "fashion_mnist", "cifar10", "cifar10_improved", "celeba64"),
    "lsun256",
)
COMPILED = ("digits",)  # by --check too
PLANNED = {"cifar10": (8, 16), "celeba64": (4, 8), "lsun256": (1, 2)}  # batch sizes
MEMORIES = (16, 24, 40, 80)  # GB
USABLE = 0.75  # of it, as JAX by default; what the compiler works with fits in, too
DEVICES = 8
OPTIONS = {
    "xla_backend_optimization_level": 0,  # of machine code, which comes after the plan
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",  # as on a GPU
}
# How much a number may grow before the check fails; what is not named, not at all.
TOLERANCE = {"xla_flops": 0.02, "xla_bytes_accessed": 0.05, "memory_bytes": 0.05}


def config_of(name: str, batch_size: int | None = None, **network: Any) -> Any:
    """A shipped config, with another batch size or network fields."""
    config = read_config(ROOT / "configs" / f"{name}.py")
    train = config.train
    if batch_size is not None:
        train = dataclasses.replace(train, batch_size=batch_size, accumulate=1)
    network = dataclasses.replace(config.network, **network)
    return dataclasses.replace(config, network=network, train=train)


def network_of(config: Any) -> Any:
    """The network as an accelerator runs it: one CPU would convolve otherwise."""
    return build.make_network(config).clone(convolutions=DIRECT)


def traced(config: Any, *, update: bool = True) -> dict[str, float]:
    """What needs no compiler; without the update, in a quarter of the time."""
    network, data = network_of(config), config.data
    params = jax.eval_shape(lambda: build.init_params(jax.random.key(0), network, data))
    batch = abstract_batch(config, None)
    rows, image = batch.place, jax.ShapeDtypeStruct(batch.image.shape, jnp.float32)

    def call(params, x, t, label):
        return network.apply({"params": params}, x, t, label)

    numbers = {
        "batch_size": config.train.batch_size,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "model_flops_per_call": model_flops(call, params, image, rows, batch.label),
    }
    if update:
        step, initial = make_update(config, network)
        flops = model_flops(step, jax.eval_shape(initial), batch)
        numbers["model_flops_per_update"] = flops
    return numbers


def compiled(config: Any) -> Any:
    """The update as the training loop compiles it, with no data on the devices."""
    step, initial = make_update(config, network_of(config))
    state = jax.eval_shape(initial)
    runner = parallel.jit_runner(step, parallel.make_mesh(), state)
    lowered = runner.program.lower(state, None, abstract_batch(config, None))
    return lowered.compile(compiler_options=OPTIONS)


def planned(program: Any) -> dict[str, float]:
    """What the compiler says of a program for one device."""
    costs = program.cost_analysis()
    return {
        "xla_flops": costs["flops"],
        "xla_bytes_accessed": costs["bytes accessed"],
        "memory_bytes": memory(program),
    }


def memory(program: Any) -> int:
    """Bytes at the peak of a program: what it is given, returns and holds meanwhile."""
    plan = program.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return held - plan.alias_size_in_bytes + plan.temp_size_in_bytes


def counted(name: str, *, compiles: bool = True) -> dict[str, float]:
    """The numbers of a config, all or those that are cheap."""
    config = config_of(name)
    if not compiles:
        return traced(config, update=False)
    command = [sys.executable, __file__, "--collectives-of", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        numbers = traced(config) | planned(compiled(config))
        said, _ = other.communicate()
    if other.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return numbers | json.loads(said.splitlines()[-1])


def kept(network: UNet, config: Any, batch_size: int) -> int:
    """Bytes that the forward pass leaves to the backward pass, with the weights."""
    data, rows = config.data, jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    shape = (batch_size, data.image_size, data.image_size, data.channels)
    label = None if data.num_classes is None else rows

    def backward(key, x, t, label):
        params = build.init_params(key, network, data)
        keys = jax.random.split(key, batch_size)

        def forward(params):
            return network.apply({"params": params}, x, t, label, True, keys)

        return jax.vjp(forward, params)[1]

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    arrays = jax.eval_shape(backward, jax.random.key(0), x, rows, label)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def fitting(name: str) -> list[dict[str, Any]]:
    """The largest batches by memory, for every policy of remat and dtype.

    What does not depend on the batch: weights, average, two moments and a gradient, all
    float32. What does is a line in its size, through two of them.
    """
    rows, parameters = [], traced(config_of(name), update=False)["parameters"]
    for dtype in ("float32", "bfloat16"):
        for remat in ("none", "dots", "blocks"):
            how = {"dtype": dtype, "remat": remat}
            config = config_of(name, **how)
            network = network_of(config)
            less, more = (kept(network, config, size) for size in (2, 4))
            each, fixed = (more - less) / 2, 5 * 4 * parameters
            room = {g: max(USABLE * g * 1e9 - fixed, 0) for g in MEMORIES}
            fits = {str(g): int(x // each) for g, x in room.items()}
            line = {"fixed_bytes": fixed, "image_bytes": each}
            rows.append({**how, **line, "fits": fits})
            print(name, rows[-1], flush=True)
    return rows


def compilers_line(name: str, **how: Any) -> dict[str, float]:
    """Memory of the compiled update, as a line in the batch size."""
    small, large = sizes = PLANNED[name]
    less, more = (memory(compiled(config_of(name, x, **how))) for x in sizes)
    each = (more - less) / (large - small)
    return {"fixed_bytes": less - each * small, "image_bytes": each}


def grown(ours: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Which numbers are above the kept ones by more than is tolerated, a line each."""
    lines = []
    for key, value in ours.items():
        most = kept.get(key, 0) * (1 + TOLERANCE.get(key, 0))
        if value > most:
            lines.append(f"{key} is {value:,.0f}, kept was {kept.get(key, 0):,.0f}")
    return lines


def check() -> None:
    """Exits with 1 where a number has grown."""
    kept, lines = json.loads(RESULT.read_text())["configs"], []
    for name in CONFIGS:
        ours = counted(name, compiles=name in COMPILED)
        lines += [f"{name}: {line}" for line in grown(ours, kept[name])]
        print(f"{name:17} {len(ours)} numbers")
    if lines:
        sys.exit("\n".join([*lines, "where it is meant: python benchmarks/counted.py"]))


def main() -> None:
    """Counts and writes, or checks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CONFIGS, default=CONFIGS)
    parser.add_argument("--collectives-of", choices=CONFIGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collectives_of:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        program = compiled(config_of(options.collectives_of))
        rows = collectives(program.as_text()).values()
        number, size = (sum(row[x] for row in rows) for x in ("count", "bytes"))
        print(json.dumps({"collectives": number, "collective_bytes": size}))
        return
    if options.check:
        check()
        return
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result = {"configs": {}, "fitting": {}, "planned": {}, **result}
    for name in options.only:
        result["configs"][name] = counted(name)
        print(name, json.dumps(result["configs"][name]), flush=True)
        if name in PLANNED:
            result["fitting"][name] = fitting(name)
            plans = {x: compilers_line(name, remat=x) for x in ("none", "blocks")}
            result["planned"][name] = plans
        write(RESULT, result)


if __name__ == "__main__":
    main()

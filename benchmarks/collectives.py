"""What dividing the work over devices costs: the collectives of compiled programs."""

import re
from typing import Any

import jax
import numpy as np
from measure import spread, take_turns
from train_step import random_batch

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.diffusion import samplers
from ddpm_jax.mesh import BATCH_AXES, make_mesh
from ddpm_jax.training.parallel import jit_runner
from ddpm_jax.training.setup import make_update

DIVISIONS = [(1, 1), (2, 1), (4, 1), (8, 1), (8, 8)]  # (devices, of which fsdp)
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
ITEM = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}


def sweep_devices(config: Config, batch_size: int, repeats: int) -> list[dict]:
    """Collectives of an update and of a walk, and an update's time, by devices.

    For a fresh process: the number of devices is set before JAX looks for them.
    """
    jax.config.update("jax_num_cpu_devices", max(n for n, _ in DIVISIONS))
    rows, updates = [], {}
    for devices, fsdp in DIVISIONS:
        mesh = make_mesh(jax.devices()[:devices], fsdp=fsdp)
        update = Update(config, batch_size, mesh)
        updates[f"{devices}/{fsdp}"] = update
        rows.append(
            {
                "devices": devices,
                "fsdp": fsdp,
                "parameter_bytes": update.parameter_bytes,
                "update": collectives(update.compiled.as_text()),
                "sampler": collectives(walk_program(config, batch_size, mesh)),
            }
        )
    times = take_turns(updates, repeats=repeats)
    return [
        row | spread(ms / batch_size)
        for row, ms in zip(rows, times.values(), strict=True)
    ]


class Update:
    """An update compiled for a mesh, with its state: call it to make one."""

    def __init__(self, config: Config, batch_size: int, mesh: jax.sharding.Mesh):
        step, initial = make_update(config)
        abstract = jax.eval_shape(initial)
        runner = jit_runner(step, mesh, abstract)
        divided = _sharding(mesh, BATCH_AXES)
        self.batch = jax.device_put(random_batch(config, batch_size), divided)
        self.state = runner.make_state(initial)
        self.compiled = runner.program.lower(self.state, None, self.batch).compile()
        count = sum(x.size for x in jax.tree.leaves(abstract.params))
        self.parameter_bytes = 4 * count

    def __call__(self) -> Any:
        """One update."""
        self.state, metrics = self.compiled(self.state, None, self.batch)
        return metrics


def walk_program(config: Config, batch_size: int, mesh: jax.sharding.Mesh) -> str:
    """DDIM's walk, compiled: the weights on every device, the batch divided."""
    unet, data = build.make_network(config), config.data
    params = jax.eval_shape(lambda: build.init_params(jax.random.key(0), unet, data))
    schedule = build.make_schedule(config.diffusion.schedule, steps=4)
    whole, divided = _sharding(mesh), _sharding(mesh, BATCH_AXES)

    def walk(params, keys):
        denoise = build.make_denoiser(
            config.diffusion, build.bound_network(unet, params)
        )
        shape = (*keys.shape, data.image_size, data.image_size, data.channels)
        return samplers.sample(keys, denoise, schedule, shape, sampler=samplers.ddim())

    keys = jax.random.split(jax.random.key(0), batch_size)
    compiled = jax.jit(walk, in_shardings=(whole, divided), out_shardings=divided)
    return compiled.lower(params, keys).compile().as_text()


def _sharding(mesh: jax.sharding.Mesh, *axes: Any) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def collectives(program: str) -> dict[str, dict[str, int]]:
    """Of each kind in the text of a compiled program: the number, and bytes of results.

    A collective of several arrays at once counts once.
    """
    found: dict[str, dict[str, int]] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", program):
        row = found.setdefault(kind, {"count": 0, "bytes": 0})
        row["count"] += 1
        for item, lengths in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            length = np.prod([int(x) for x in lengths.split(",") if x], dtype=int)
            row["bytes"] += ITEM.get(item, 4) * int(length)
    return found

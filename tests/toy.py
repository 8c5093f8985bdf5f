"""A model of a few numbers: what the glue does with it can be computed by hand."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from ddpm_jax import build
from ddpm_jax.command import read_config
from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    OptimConfig,
    SampleConfig,
    ScheduleConfig,
    TrainConfig,
)
from ddpm_jax.model import Model

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.py"
# The network of `small_config` on the command line.
SMALL = ["--network.multipliers", "1", "--network.num-blocks", "1"]
SMALL += ["--network.attention-resolutions"]


def small_config(num_steps=2, classes=10, *, diffusion=None, **train):
    """The smoke run of so few updates, with hardly a U-Net, which compiles soon."""
    smoke = read_config(SMOKE)
    dropout = {"label_dropout": 0.1 if classes else 0.0}
    sections = {
        "data": {"num_classes": classes},
        "network": {
            "multipliers": (1,),
            "num_blocks": 1,
            "attention_resolutions": (),
        },
        "diffusion": dropout | (diffusion or {}),
        "train": {"num_steps": num_steps, **train},
        "sample": {"every": 10_000, "steps": 2, "num": 4},
    }
    return dataclasses.replace(
        smoke,
        **{
            name: dataclasses.replace(getattr(smoke, name), **fields)
            for name, fields in sections.items()
        },
    )


@dataclasses.dataclass(frozen=True)
class Toy:
    """w x + b + sin(t / 3) / 2 + row[label]; a second half tanh(c x) - 1 where wanted.

    Each pixel on its own, so that no program of it takes long to compile.
    """

    out_channels: int = 1
    null_label: bool = True
    classes: int = 3

    def init(self, key, x, t, label=None):
        """Parameters that differ from each other."""
        del x, t, label
        names = ("w", "b", "c")
        drawn = jax.random.uniform(key, (len(names) + self.classes + 1,))
        params = dict(zip(names, 0.3 + drawn, strict=False))
        return {"params": params | {"row": 2 * drawn[len(names) :] - 1}}

    def apply(self, variables, x, t, label=None, train=False, rngs=None):
        """Labels None and `classes` are the last row."""
        del train, rngs
        p, batch = variables["params"], x.shape[:1]
        row = p["row"][
            jnp.broadcast_to(self.classes if label is None else label, batch)
        ]
        shift = p["b"] + jnp.sin(jnp.broadcast_to(t, batch) / 3) / 2 + row
        output = p["w"] * x + shift.reshape(-1, *(1,) * (x.ndim - 1))
        if self.out_channels == x.shape[-1]:
            return output
        return jnp.concatenate([output, jnp.tanh(p["c"] * x) - 1], axis=-1)


def toy_config(*, classes=3, size=4, num_steps=6, **diffusion):
    """A config of it; `diffusion` are fields of that section."""
    if diffusion.get("variance", "fixed").startswith("learned"):
        diffusion.setdefault("loss", "hybrid")
    digits = size == 8
    return Config(
        data=DataConfig(
            source="digits" if digits else "given",
            image_size=size,
            num_classes=classes,
        ),
        network=NetworkConfig(channels=8, num_groups=4, own="Toy"),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(num_steps=num_steps, start=0.2, end=0.95),
            label_dropout=0.1 if classes else 0.0,
            **diffusion,
        ),
        optim=OptimConfig(warmup_steps=0, ema_decay=0.5),
        train=TrainConfig(num_steps=1, batch_size=8, log_every=1),
        sample=SampleConfig(num=4, steps=3),
    )


def toy_network(config):
    """The network that suits the config."""
    return Toy(build.out_channels(config), classes=config.data.num_classes or 0)


def toy_model(seed=0, **options):
    """A Model of it; options are those of `toy_config`."""
    config = toy_config(**options)
    network = toy_network(config)
    return Model(
        params=build.init_params(jax.random.key(seed), network, config.data),
        schedule=build.make_schedule(config.diffusion.schedule),
        config=config,
        network=network,
        step=0,
    )

"""From a config to the update that it describes, and the state that it starts from."""

import dataclasses
import math
from collections.abc import Callable

import jax

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.diffusion.noise import threefry_key
from ddpm_jax.networks import Network, UNet
from ddpm_jax.training.state import TrainState, adam, init_state
from ddpm_jax.training.step import make_train_step


def cautions(config: Config) -> list[str]:
    """What of the optimiser does not fit the length of the run, a line each."""
    optim, steps, said = config.optim, config.train.num_steps, []
    rate, warmup, decay = optim.learning_rate, optim.warmup_steps, optim.decay_steps
    if warmup >= steps:
        said.append(
            f"optim.warmup_steps={warmup} does not end within train.num_steps={steps}: "
            f"the rate rises to {rate * (steps - 1) / warmup:.2g} of {rate:g}"
        )
    elif decay is not None and decay > steps:
        part = (1 + math.cos(math.pi * (steps - 1 - warmup) / (decay - warmup))) / 2
        said.append(
            f"optim.decay_steps={decay} does not end within train.num_steps={steps}: "
            f"the rate falls to {rate * part:.2g} from {rate:g}"
        )
    elif decay is not None and decay < steps:
        said.append(
            f"optim.decay_steps={decay}: the rate is 0 from there on, and the last "
            f"{steps - decay} of train.num_steps={steps} updates change nothing"
        )
    left = optim.ema_decay**steps
    if left > 0.01 and not optim.ema_warmup:
        said.append(
            f"optim.ema_decay={optim.ema_decay} leaves {left:.0%} of the first, random "
            f"weights in the average at train.num_steps={steps}: see optim.ema_warmup"
        )
    return said


def make_update(
    config: Config, network: Network | None = None
) -> tuple[Callable, Callable[[], TrainState]]:
    """(the pure train step, the function that makes its first state), not jitted.

    Args:
        network: None is the U-Net of the config.
    """
    build.warn_of_signal(config.diffusion.schedule)  # once trained, it is too late
    network = build.make_network(config) if network is None else network
    step_sampler = build.make_step_sampler(config.diffusion)
    optim = dataclasses.asdict(config.optim)
    average = {name: optim.pop(name) for name in ("ema_decay", "ema_warmup")}
    tx = adam(**optim)
    train_step = make_train_step(
        network.apply,
        build.make_schedule(config.diffusion.schedule),
        tx,
        loss=build.make_loss(config.diffusion),
        step_sampler=step_sampler,
        **average,
        flip=config.data.flip,
        label_dropout=config.diffusion.label_dropout,
        null_label=config.data.num_classes,
        accumulate=config.train.accumulate,
        unroll=jax.default_backend() == "cpu",
        skip_nonfinite=config.train.on_nonfinite == "skip",
        batched=isinstance(network, UNet),
    )

    def initial_state() -> TrainState:
        key = threefry_key(jax.random.key(config.train.seed))
        key_params, key_run = jax.random.split(key)
        params = build.init_params(key_params, network, config.data)
        return init_state(key_run, params, tx, step_sampler.init())

    return train_step, initial_state

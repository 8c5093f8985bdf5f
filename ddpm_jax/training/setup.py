"""From a config to the update that it describes, and the state that it starts from."""

import dataclasses
from collections.abc import Callable

import jax

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.training.state import TrainState, adam, init_state
from ddpm_jax.training.step import make_train_step


def make_update(config: Config) -> tuple[Callable, Callable[[], TrainState]]:
    """(the pure train step, the function that makes its first state), not jitted."""
    network = build.make_network(config)
    step_sampler = build.make_step_sampler(config.diffusion)
    optim = dataclasses.asdict(config.optim)
    ema_decay = optim.pop("ema_decay")
    tx = adam(**optim)
    train_step = make_train_step(
        network.apply,
        build.make_schedule(config.diffusion.schedule),
        tx,
        loss=build.make_loss(config.diffusion),
        step_sampler=step_sampler,
        ema_decay=ema_decay,
        flip=config.data.flip,
        label_dropout=config.diffusion.label_dropout,
        null_label=config.data.num_classes,
        accumulate=config.train.accumulate,
        unroll=jax.default_backend() == "cpu",
        skip_nonfinite=config.train.on_nonfinite == "skip",
    )

    def initial_state() -> TrainState:
        key_params, key_run = jax.random.split(jax.random.key(config.train.seed))
        params = build.init_params(key_params, network, config.data)
        return init_state(key_run, params, tx, step_sampler.init())

    return train_step, initial_state

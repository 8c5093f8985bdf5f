"""Seconds of training on the digits: what the continuous integration runs.

python train.py --config configs/smoke.py
"""

from dataclasses import replace
from pathlib import Path

from ddpm_jax.config import Config, EvaluationConfig, ScheduleConfig
from ddpm_jax.experiments import read_config


def get_config() -> Config:
    """A tiny U-Net, 20 diffusion steps, 30 updates. Its samples are noise."""
    base = read_config(Path(__file__).with_name("digits.py"))
    return replace(
        base,
        network=replace(base.network, channels=8, num_groups=4, dropout=0.1),
        diffusion=replace(
            base.diffusion, schedule=ScheduleConfig(num_steps=20, end=0.6)
        ),
        optim=replace(base.optim, learning_rate=1e-3, warmup_steps=5, ema_decay=0.9),
        train=replace(
            base.train, num_steps=30, batch_size=16, log_every=5, checkpoint_every=10
        ),
        sample=replace(base.sample, sampler="ddpm", steps=None, every=15, num=16),
        evaluation=EvaluationConfig(),
    )

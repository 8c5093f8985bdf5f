"""CIFAR-10 as in Nichol & Dhariwal 2021, cosine schedule and hybrid loss: 52.5M.

python train.py --config configs/cifar10_improved.py

The paper: T = 4000, batch 128, Adam at 1e-4 without warm-up, clipping or flips, dropout
0.3, EMA 0.9999, 500,000 steps; 3.17 bits/dim and FID 3.19. For the likelihood alone add
--diffusion.loss vlb --diffusion.steps loss_second_moment (2.94 bits/dim, FID 11.47).
"""

from dataclasses import replace
from pathlib import Path

from ddpm_jax.config import Config, ScheduleConfig
from ddpm_jax.experiments import read_config


def get_config() -> Config:
    """The paper's 50M network, told its step as 1000 t / T."""
    base = read_config(Path(__file__).with_name("cifar10.py"))
    return replace(
        base,
        data=replace(base.data, flip=False),
        network=replace(
            base.network,
            num_blocks=3,
            attention_resolutions=(16, 8),
            dropout=0.3,
            norm_eps=1e-5,
            cos_first=True,
            freq_shift=0,
            time_scale=1000 / 4000,
            downsample_padding=(1, 1),
            scale_shift=True,
            num_heads=4,
            init="improved",
        ),
        diffusion=replace(
            base.diffusion,
            schedule=ScheduleConfig(kind="cosine", num_steps=4000),
            variance="learned_range",
            loss="hybrid",
        ),
        optim=replace(base.optim, learning_rate=1e-4, warmup_steps=0, clip_norm=None),
        train=replace(base.train, num_steps=500_000),
        sample=replace(base.sample, steps=250),
    )

"""Seconds of training on the digits: what the continuous integration runs.

python train.py --config configs/smoke.py
"""

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


def get_config() -> Config:
    """A tiny U-Net, 20 diffusion steps, 30 updates. Its samples are noise."""
    return Config(
        data=DataConfig(source="digits", num_classes=10),
        network=NetworkConfig(
            channels=8,
            multipliers=(1, 2),
            num_blocks=1,
            attention_resolutions=(4,),
            num_groups=4,
        ),
        diffusion=DiffusionConfig(
            schedule=ScheduleConfig(kind="linear", num_steps=20, end=0.6),
            label_dropout=0.1,
        ),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=5, ema_decay=0.9),
        train=TrainConfig(
            num_steps=30, batch_size=16, log_every=5, checkpoint_every=10
        ),
        sample=SampleConfig(every=15, num=16),
    )

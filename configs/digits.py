"""Handwritten digits, class-conditional, in minutes on a laptop's processor.

python train.py
"""

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    NetworkConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    """A small U-Net on the 1,497 training digits of 8 x 8 pixels."""
    return Config(
        data=DataConfig(source="digits", num_classes=10),
        network=NetworkConfig(
            channels=32,
            multipliers=(1, 2, 2),
            num_blocks=1,
            attention_resolutions=(4,),
            dropout=0.1,
            num_groups=8,
        ),
        diffusion=DiffusionConfig(label_dropout=0.1),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=200, ema_decay=0.995),
        train=TrainConfig(
            num_steps=3000, batch_size=128, checkpoint_every=1000, log_every=50
        ),
        sample=SampleConfig(every=1000, num=100),
    )

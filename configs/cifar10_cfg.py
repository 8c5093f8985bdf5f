"""CIFAR-10, class-conditional, for classifier-free guidance (Ho & Salimans 2022).

python train.py --config configs/cifar10_cfg.py
python sample.py --workdir runs/cifar10_cfg --label 3 --guidance 1.5

DDPM's network and recipe with a class embedding; one label in ten is hidden in
training, which makes the unconditional branch. The paper's own runs are on ImageNet; no
published figure belongs to this file.
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
    """DDPM on CIFAR-10 with ten classes and label dropout 0.1."""
    return Config(
        data=DataConfig(
            source="tfds",
            name="cifar10",
            image_size=32,
            channels=3,
            num_classes=10,
            flip=True,
        ),
        network=NetworkConfig(),
        diffusion=DiffusionConfig(label_dropout=0.1),
        optim=OptimConfig(ema_warmup=False),
        train=TrainConfig(num_steps=800_000, batch_size=128, keep_every=100_000),
        sample=SampleConfig(every=10_000, num=100, sampler="ddim", steps=100),
    )

"""CIFAR-10 as in Ho et al. 2020, unconditional: 35.7M parameters.

python train.py --config configs/cifar10.py

The paper: batch 128, Adam at 2e-4 after 5000 steps of warm-up, dropout 0.1, flips, EMA
0.9999, 800,000 steps; FID 3.17 against the training set from 50,000 samples of the EMA
weights by 1000 ancestral steps, the least over the run. 10.6 hours on a TPU v3-8.
"""

from ddpm_jax.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    NetworkConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    """Section 4 and appendix B of the paper, to the letter."""
    return Config(
        data=DataConfig(
            source="tfds", name="cifar10", image_size=32, channels=3, flip=True
        ),
        network=NetworkConfig(),
        diffusion=DiffusionConfig(),
        optim=OptimConfig(ema_warmup=False),
        train=TrainConfig(num_steps=800_000, batch_size=128, keep_every=100_000),
        sample=SampleConfig(every=10_000, num=64),
        evaluation=EvaluationConfig(every=10_000),
    )

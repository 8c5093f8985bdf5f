"""Fashion-MNIST, 28 x 28 grey, class-conditional: a small network for one GPU.

python train.py --config configs/fashion_mnist.py

TFDS fetches the data on the first run (30 MB), without TensorFlow. On a CPU the run
takes days; for a first look, lower train.num_steps and network.channels.
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
    """Ho's U-Net, narrower, with attention at 14 x 14."""
    return Config(
        data=DataConfig(
            source="tfds",
            name="fashion_mnist",
            image_size=28,
            channels=1,
            num_classes=10,
            flip=True,
        ),
        network=NetworkConfig(
            channels=64, multipliers=(1, 2, 2), attention_resolutions=(14,)
        ),
        diffusion=DiffusionConfig(label_dropout=0.1),
        optim=OptimConfig(learning_rate=2e-4, warmup_steps=1000, ema_decay=0.999),
        train=TrainConfig(num_steps=100_000, batch_size=128, keep_every=25_000),
        sample=SampleConfig(every=5000, num=100),
        evaluation=EvaluationConfig(every=5000),
    )

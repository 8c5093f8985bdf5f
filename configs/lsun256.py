"""256 x 256 images (LSUN, CelebA-HQ) as in Ho et al. 2020: 113.7M parameters.

python train.py --config configs/lsun256.py --data.path FOLDER

The paper: batch 64, Adam at 2e-5, no dropout; 2.4M steps for LSUN bedroom (FID 6.36),
1.2M for church (7.89), 0.5M for CelebA-HQ. Flips for church and CelebA-HQ, none for
bedroom. It needs accelerators: 2.2 steps a second on a TPU v3-8.
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
    """Appendix B of the paper: six resolutions, attention at 16 x 16."""
    return Config(
        data=DataConfig(
            source="folder",
            path="data/lsun_bedroom",
            image_size=256,
            channels=3,
            resize=True,
            resident=False,
            workers=8,
        ),
        network=NetworkConfig(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0),
        diffusion=DiffusionConfig(),
        optim=OptimConfig(learning_rate=2e-5, ema_warmup=False),
        train=TrainConfig(num_steps=2_400_000, batch_size=64, keep_every=200_000),
        sample=SampleConfig(every=20_000, num=16),
    )

"""256 x 256 images (LSUN, CelebA-HQ) as in Ho et al. 2020: 113.7M parameters.

python train.py --config configs/lsun256.py --data.path FOLDER

The paper: batch 64, Adam at 2e-5, no dropout; 2.4M steps for LSUN bedroom (FID 6.36),
1.2M for church (7.89), 0.5M for CelebA-HQ. Flips for church and CelebA-HQ, none for
bedroom. It needs accelerators: 2.2 steps a second on a TPU v3-8.
"""

from dataclasses import replace
from pathlib import Path

from ddpm_jax.config import Config, DataConfig, EvaluationConfig
from ddpm_jax.experiments import read_config


def get_config() -> Config:
    """Appendix B of the paper: six resolutions, attention at 16 x 16."""
    base = read_config(Path(__file__).with_name("cifar10.py"))
    return replace(
        base,
        data=DataConfig(
            source="folder",
            path="data/lsun_bedroom",
            image_size=256,
            channels=3,
            resize=True,
            resident=False,
            workers=8,
        ),
        network=replace(base.network, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0),
        optim=replace(base.optim, learning_rate=2e-5),
        train=replace(
            base.train, num_steps=2_400_000, batch_size=64, keep_every=200_000
        ),
        sample=replace(base.sample, every=20_000, num=16),
        evaluation=EvaluationConfig(),
    )

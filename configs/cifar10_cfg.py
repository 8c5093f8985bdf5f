"""CIFAR-10, class-conditional, for classifier-free guidance (Ho & Salimans 2022).

python train.py --config configs/cifar10_cfg.py
python sample.py --workdir runs/cifar10_cfg --label 3 --guidance 1.5

DDPM's network and recipe with a class embedding; one label in ten is hidden in
training, which makes the unconditional branch. The paper's own runs are on ImageNet; no
published figure belongs to this file.
"""

from dataclasses import replace
from pathlib import Path

from ddpm_jax.config import Config
from ddpm_jax.experiments import read_config


def get_config() -> Config:
    """DDPM on CIFAR-10 with ten classes and label dropout 0.1."""
    base = read_config(Path(__file__).with_name("cifar10.py"))
    return replace(
        base,
        data=replace(base.data, num_classes=10),
        diffusion=replace(base.diffusion, label_dropout=0.1),
        sample=replace(base.sample, num=100, sampler="ddim", steps=100),
    )

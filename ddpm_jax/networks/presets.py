"""The published networks by name, with the number of parameters that each must have.

Every function hands further fields on to `UNet`: `ddpm_cifar10(remat=True)`.
"""

from typing import Any

import flax.linen as nn

from ddpm_jax.networks.layers import ScaledUniform
from ddpm_jax.networks.unet import UNet

IMPROVED_INIT: dict[str, Any] = {
    "kernel_init": ScaledUniform(1 / 3, "fan_in"),
    "zero_init": nn.initializers.zeros,
}
"""How Improved DDPM starts, as fields of `UNet`.

Kernels as PyTorch's do, uniform with variance 1 / (3 fan_in), and last layers at
exactly 0; the biases here start at 0.
"""

# What Improved DDPM and guided diffusion share.
_OPENAI: dict[str, Any] = {
    "norm_eps": 1e-5,
    "cos_first": True,
    "freq_shift": 0,
    "downsample_padding": (1, 1),
    "scale_shift": True,
    "num_heads": 4,
    "null_label": False,
    **IMPROVED_INIT,
}


def ddpm_cifar10(**fields: Any) -> UNet:
    """DDPM on CIFAR-10, 32x32: 35,746,307 parameters (paper: 35.7M).

    Args:
        fields: further ones of `UNet`.

    Examples:
        >>> from ddpm_jax.networks.presets import ddpm_cifar10
        >>> network = ddpm_cifar10(num_classes=10)
        >>> network.channels, network.multipliers, network.num_classes
        (128, (1, 2, 2, 2), 10)
    """
    return UNet(**{"out_channels": 3, **fields})


def ddpm_celeba64(**fields: Any) -> UNet:
    """DDIM's network for CelebA, 64x64: 78,700,803 parameters.

    Args:
        fields: further ones of `UNet`.
    """
    return ddpm_cifar10(**{"multipliers": (1, 2, 2, 2, 4), **fields})


def ddpm_lsun256(**fields: Any) -> UNet:
    """DDPM on LSUN and CelebA-HQ, 256x256: 113,673,219 parameters (paper: 114M).

    Args:
        fields: further ones of `UNet`.
    """
    preset = {"multipliers": (1, 1, 2, 2, 4, 4), "dropout": 0.0}
    return ddpm_cifar10(**{**preset, **fields})


def ddpm_lsun256_large(**fields: Any) -> UNet:
    """DDPM's large LSUN Bedroom network: 255,677,955 parameters (paper: 256M).

    The paper says only that the filter count was increased; 192 gives its size.

    Args:
        fields: further ones of `UNet`.
    """
    return ddpm_lsun256(**{"channels": 192, **fields})


def iddpm_cifar10(**fields: Any) -> UNet:
    """Improved DDPM on CIFAR-10, T = 4000: 52,546,438 parameters (paper: 50M).

    With out_channels=3, without a learned variance, it has 52,542,979.

    Args:
        fields: further ones of `UNet`.
    """
    preset = {
        "out_channels": 6,
        "num_blocks": 3,
        "attention_resolutions": (16, 8),
        "dropout": 0.3,
        "time_scale": 1000 / 4000,
    }
    return UNet(**{**_OPENAI, **preset, **fields})


def iddpm_imagenet64(**fields: Any) -> UNet:
    """Improved DDPM on ImageNet, 64x64, T = 4000: 121,063,942 parameters (paper: 120M).

    The paper's family has channels=64 (30,303,494), 96 (68,126,598), 128 and
    192 (272,281,350).

    Args:
        fields: further ones of `UNet`.
    """
    preset = {"multipliers": (1, 2, 3, 4), "dropout": 0.0}
    return iddpm_cifar10(**{**preset, **fields})


def iddpm_imagenet64_cond(**fields: Any) -> UNet:
    """Improved DDPM, class-conditional, 64x64: 273,049,350 parameters (paper: 270M).

    Args:
        fields: further ones of `UNet`.
    """
    preset = {"channels": 192, "num_classes": 1000, "time_scale": 1.0}
    return iddpm_imagenet64(**{**preset, **fields})


def iddpm_lsun256(**fields: Any) -> UNet:
    """Improved DDPM on LSUN, 256x256: 113,676,678 parameters (paper: 114M).

    Args:
        fields: further ones of `UNet`.
    """
    preset = {
        "out_channels": 6,
        "multipliers": (1, 1, 2, 2, 4, 4),
        "dropout": 0.0,
        "scale_shift": False,
        "num_heads": 1,
    }
    return UNet(**{**_OPENAI, **preset, **fields})


def guided_imagenet64(**fields: Any) -> UNet:
    """Guided diffusion, class-conditional ImageNet, 64x64: 295,904,454 parameters.

    Dhariwal & Nichol 2021.

    Args:
        fields: further ones of `UNet`.
    """
    preset = {
        "out_channels": 6,
        "channels": 192,
        "multipliers": (1, 2, 3, 4),
        "num_blocks": 3,
        "attention_resolutions": (32, 16, 8),
        "dropout": 0.1,
        "num_classes": 1000,
        "head_channels": 64,
        "resblock_updown": True,
    }
    return UNet(**{**_OPENAI, **preset, **fields})

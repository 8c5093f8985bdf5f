"""The published models: what their weights do not say of them.

The sources are the papers, and the flags with which OpenAI's two repositories say to
run each of their files. Models with the same shapes (LSUN's three and CelebA-HQ) are
one entry.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ddpm_jax.interop.structure import Layout, Structure, structure_of_network
from ddpm_jax.networks import UNet, presets

_LINEAR = {"kind": "linear", "num_steps": 1000}
_COSINE = {"kind": "cosine", "num_steps": 1000}
_COSINE_4000 = {"kind": "cosine", "num_steps": 4000}


class Published(NamedTuple):
    """A published model.

    Attributes:
        name: what to call it.
        layout: whose state dict it comes in.
        network: the U-Net.
        image_size: height and width of its images, which have 3 channels.
        schedule: fields of `ScheduleConfig`.
        variance: of the reverse step.
        new_attention_order: see `keymaps.openai`.
        data: fields of `DataConfig`, where the data set is in TFDS.
    """

    name: str
    layout: Layout
    network: UNet
    image_size: int
    schedule: dict[str, Any]
    variance: str
    new_attention_order: bool = False
    data: Mapping[str, Any] = MappingProxyType({})

    def structure(self) -> Structure:
        """What its weights show."""
        return structure_of_network(self.network, self.image_size, 3)


def published(layout: Layout) -> list[Published]:
    """Every published model that comes in this layout."""
    return {"ho": _ho, "openai": _openai}[layout]()


def _ho() -> list[Published]:
    cifar10 = {"source": "tfds", "name": "cifar10", "flip": True}
    return [
        Published(
            "DDPM, CIFAR-10",
            "ho",
            presets.ddpm_cifar10(),
            32,
            _LINEAR,
            "fixed_large",
            data=cifar10,
        ),
        Published(
            "DDIM's CelebA", "ho", presets.ddpm_celeba64(), 64, _LINEAR, "fixed_large"
        ),
        Published(
            "DDPM, LSUN or CelebA-HQ",
            "ho",
            presets.ddpm_lsun256(),
            256,
            _LINEAR,
            "fixed_small",
        ),
        Published(
            "DDPM, LSUN Bedroom, large",
            "ho",
            presets.ddpm_lsun256_large(),
            256,
            _LINEAR,
            "fixed_small",
        ),
    ]


def _openai() -> list[Published]:
    return [*_improved(), *_guided()]


def _improved() -> list[Published]:
    def model(name, network, size, schedule, variance="learned_range", **fields):
        return Published(
            f"Improved DDPM, {name}",
            "openai",
            network,
            size,
            schedule,
            variance,
            **fields,
        )

    cifar10 = {"source": "tfds", "name": "cifar10"}
    return [
        model("CIFAR-10", presets.iddpm_cifar10(), 32, _COSINE_4000, data=cifar10),
        model(
            "CIFAR-10 with a fixed variance",
            presets.iddpm_cifar10(out_channels=3),
            32,
            _COSINE_4000,
            "fixed_large",
            data=cifar10,
        ),
        *(
            model(
                f"ImageNet 64x64 of {channels} channels",
                presets.iddpm_imagenet64(channels=channels),
                64,
                _COSINE_4000,
            )
            for channels in (64, 96, 128, 192)
        ),
        model(
            "ImageNet 64x64 with classes",
            presets.iddpm_imagenet64_cond(),
            64,
            _COSINE_4000,
        ),
        model("LSUN Bedroom", presets.iddpm_lsun256(), 256, _LINEAR),
    ]


def _guided() -> list[Published]:
    def model(size, schedule, network, name="ImageNet", **fields):
        return Published(
            f"guided diffusion, {name} {size}x{size}",
            "openai",
            network,
            size,
            schedule,
            "learned_range",
            **fields,
        )

    larger: dict[str, Any] = {"channels": 256, "num_blocks": 2, "dropout": 0.0}
    at_256 = {**larger, "multipliers": (1, 1, 2, 2, 4, 4)}
    return [
        model(64, _COSINE, presets.guided_imagenet64(), new_attention_order=True),
        model(
            128,
            _LINEAR,
            presets.guided_imagenet64(
                **larger, multipliers=(1, 1, 2, 3, 4), head_channels=None
            ),
        ),
        model(256, _LINEAR, presets.guided_imagenet64(**at_256)),
        model(
            512,
            _LINEAR,
            presets.guided_imagenet64(**larger, multipliers=(0.5, 1, 1, 2, 2, 4, 4)),
        ),
        model(
            256,
            _LINEAR,
            presets.guided_imagenet64(**at_256, num_classes=None),
            name="ImageNet or LSUN without classes,",
        ),
    ]

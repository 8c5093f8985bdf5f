"""The section of a config that describes the U-Net, and what a U-Net cannot be."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ddpm_jax.checks import (
    check_types,
    refuse,
    unless,
    unless_count,
    unless_positive,
    unless_probability,
)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The U-Net; its fields are those of `ddpm_jax.networks.UNet`.

    Raises:
        ValueError: if a field is of another type, or cannot work; it lists them all.
    """

    channels: int = 128  # at the finest resolution
    multipliers: tuple[float, ...] = (1, 2, 2, 2)  # of the channels, per resolution
    num_blocks: int = 2  # residual blocks per resolution
    attention_resolutions: tuple[int, ...] = (16,)  # in pixels
    dropout: float = 0.1  # probability, in every residual block
    num_groups: int = 32  # of every group norm
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
    # What the backward pass computes again, to save memory: all between convolutions
    # and matrix products (dots), or all within each block
    remat: Literal["none", "dots", "blocks"] = "none"
    # 3x3 convolutions: "fastest" is on one CPU device Winograd's filtering, which takes
    # more memory in training, and elsewhere "direct"
    convolutions: Literal["fastest", "direct"] = "fastest"
    # What Improved DDPM, guided diffusion and diffusers do otherwise than DDPM:
    norm_eps: float = 1e-6  # Improved DDPM and PyTorch: 1e-5
    cos_first: bool = False  # time embedding [cos, sin]; Improved DDPM
    freq_shift: int = 1  # frequencies divided by half - shift; Improved DDPM: 0
    time_scale: float = 1.0  # t is multiplied by it; Improved DDPM: 1000 / T
    downsample_padding: tuple[int, int] = (0, 1)  # (before, after); Improved DDPM: 1, 1
    scale_shift: bool = False  # time scales and shifts the second norm; Improved DDPM
    num_heads: int = 1  # of the attention; Improved DDPM: 4
    head_channels: int | None = None  # channels per head in place of num_heads; guided
    resblock_updown: bool = False  # residual blocks change the resolution; guided
    null_label: bool = True  # a row for "no label"; guided diffusion has none
    mid_attention_norm: bool = True  # of the middle's; diffusers can leave it out
    init: Literal["ddpm", "improved"] = "ddpm"  # rules for the initial weights
    # The name of a network that Python gives in place of the U-Net, which the other
    # fields describe: ddpm_jax.train(config, workdir, network=...)
    own: str | None = None

    def __post_init__(self):
        if isinstance(self.remat, bool):  # as configs had it
            object.__setattr__(self, "remat", "blocks" if self.remat else "none")
        check_types("network", self)
        whole = tuple(int(x) if x % 1 == 0 else x for x in self.multipliers)
        object.__setattr__(self, "multipliers", whole)  # 2 and 2.0 are one config
        refuse(self._broken_rules())

    def _broken_rules(self) -> Iterator[str]:
        channels = self.channels
        yield from unless_probability("network.dropout", self.dropout)
        yield from unless("network.channels", channels, channels >= 4, "at least 4")
        yield from unless_count("network.num_blocks", self.num_blocks, most=1000)
        for name in ("num_groups", "num_heads", "head_channels"):
            yield from unless_count(f"network.{name}", getattr(self, name))
        yield from unless_positive("network.norm_eps", self.norm_eps)
        yield from unless_positive("network.time_scale", self.time_scale)
        shift, half = self.freq_shift, channels // 2
        rule = f"in 0..{half - 1}, below half of network.channels"
        yield from unless("network.freq_shift", shift, 0 <= shift < half, rule)
        padding = self.downsample_padding
        halves = min(padding) >= 0 and sum(padding) in (1, 2)
        rule = "two numbers of at least 0 that add up to 1 or 2, to halve an image"
        yield from unless("network.downsample_padding", padding, halves, rule)
        if self.multipliers and min(self.multipliers) > 0:
            widths = map(self._broken_width, self.multipliers)
            yield from itertools.islice(itertools.chain.from_iterable(widths), 1)
        else:
            yield (
                "network.multipliers must be one or more positive numbers; "
                f"got {self.multipliers}"
            )

    def _broken_width(self, multiplier: float) -> Iterator[str]:
        """Of one level: what its number of channels breaks."""
        width = round(self.channels * multiplier, 6)  # 49 * (1 / 49) is below 1
        rule = "below 2^31 channels"
        yield from unless("network.multipliers", multiplier, width < 2**31, rule)
        if width % 1:
            yield (
                "network.multipliers must give every level a whole number of "
                f"channels; got {self.channels} x {multiplier} = {width}"
            )
        if self.num_groups > 0 and width % self.num_groups:
            yield (
                f"network.num_groups={self.num_groups} must divide the channels of "
                f"every level; got {self.channels} x {multiplier} = {width:.0f}"
            )

    def misfits(self, image_size: int, num_steps: int) -> Iterator[str]:
        """Yields a line for each reason why the U-Net cannot take these sizes."""
        span = self.time_scale * num_steps
        if not 1e-3 <= span <= 1e7:  # radians of the fastest angle of the embedding
            yield (
                "network.time_scale times schedule.num_steps must lie in 0.001..1e7: "
                f"else the network cannot tell the steps apart; got {span:g}"
            )
        halvings = len(self.multipliers) - 1
        if image_size % 2**halvings:
            yield (
                f"data.image_size must be divisible by 2^{halvings}, once for each of "
                f"the network's {halvings} halvings; got {image_size}"
            )
            return
        sizes = [image_size // 2**level for level in range(halvings + 1)]
        others = [size for size in self.attention_resolutions if size not in sizes]
        if others:
            yield (
                "network.attention_resolutions must be sizes that the network has, "
                f"{', '.join(map(str, sizes))}; got {', '.join(map(str, others))}"
            )


def digits_network() -> NetworkConfig:
    """A U-Net for images of 8 pixels, as the bundled digits are."""
    return NetworkConfig(
        channels=32, multipliers=(1, 2), attention_resolutions=(4,), num_groups=8
    )

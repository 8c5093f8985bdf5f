"""The U-Net of DDPM (Ho et al., 2020, appendix B) and of its published descendants.

The defaults are DDPM's. Improved DDPM (Nichol and Dhariwal, 2021), guided diffusion
(Dhariwal and Nichol, 2021) and diffusers' `UNet2DModel` differ from it in the second
group of fields; `presets` has their published settings.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.networks.convolutions import DIRECT, Convolutions
from ddpm_jax.networks.embeddings import LabelEmbedding, TimeEmbedding
from ddpm_jax.networks.layers import (
    Attention,
    AttentionBlock,
    Conv,
    Downsample,
    GroupNorm,
    Initializer,
    ResBlock,
    Upsample,
    average_downsample,
    ddpm_init,
    ddpm_zero_init,
    nearest_upsample,
)

Remat = Literal["none", "dots", "blocks"]
"""What the backward pass computes again (see `UNet`)."""

_KEPT = {"dots": jax.checkpoint_policies.dots_saveable, "blocks": None}


class UNet(nn.Module):
    """The network of a diffusion model: (x, t, label) -> an image of `out_channels`.

    Attributes:
        out_channels: channels of the output; twice x's where the variance is learned.
        channels: the width that `multipliers` multiply, and that of the time embedding.
        multipliers: one per level, finest first; each level after halves the image.
            Each times `channels` is a whole number: (0.5, 1, 2) has levels of half.
        num_blocks: residual blocks per level on the way down; the way up has one more.
        attention_resolutions: heights of feature maps with attention after each of
            their residual blocks; the middle of the network always has it.
        dropout: probability, inside the residual blocks and in training only.
        num_classes: number n of labels; None for an unconditional network.
        num_groups: groups of every group normalisation; must divide every width.
        dtype: what convolutions and attention compute in. Parameters, what time and
            label go through, and the last two layers are float32 always.
        remat: what the backward pass computes again, to save memory: "none"; "dots",
            what lies between convolutions and matrix products; "blocks", all within a
            block. False and True are "none" and "blocks".
        attention: (q, k, v), each (b, pixels, heads, channels) -> the same shape; for a
            fused one pass a partial of `jax.nn.dot_product_attention`.
        convolutions: how the 3x3 convolutions are computed; parameters and numbers are
            the same.

        null_label: the embedding's last row, n, is "no label" (Ho and Salimans, 2022);
            guided diffusion's class-conditional networks have no such row.
        mid_attention_norm: the middle's attention has a normalisation; diffusers'
            "scale_shift" networks have none there by default.
        norm_eps: added to the variances; 1e-5 in Improved DDPM, as in PyTorch.
        cos_first: the time embedding is [cos, sin] (Improved DDPM).
        freq_shift: 1, or 0 in Improved DDPM; see `time_embedding`.
        time_scale: t is multiplied by it; Improved DDPM rescales by 1000 / T.
        downsample_padding: (before, after); Improved DDPM pads (1, 1).
        scale_shift: the embedding scales and shifts the second norm (Improved DDPM).
        num_heads: attention heads; 4 in Improved DDPM.
        head_channels: channels per head, in place of `num_heads` (guided diffusion).
        resblock_updown: residual blocks change the resolution (guided diffusion, after
            Brock et al., 2019).
        kernel_init: the rule for kernels.
        zero_init: the rule for kernels that end a residual branch or the network.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.networks import UNet
        >>> network = UNet(
        ...     out_channels=3, channels=32, multipliers=(1, 2), num_blocks=1
        ... )
        >>> x, t = jnp.zeros((2, 16, 16, 3)), jnp.array([10, 500])
        >>> shape = jax.eval_shape(network.init_with_output, jax.random.key(0), x, t)
        >>> shape[0].shape
        (2, 16, 16, 3)
    """

    out_channels: int
    channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    num_classes: int | None = None
    num_groups: int = 32
    dtype: Any = jnp.float32
    remat: Remat | bool = "none"
    attention: Attention = jax.nn.dot_product_attention
    convolutions: Convolutions = DIRECT

    null_label: bool = True
    mid_attention_norm: bool = True
    norm_eps: float = 1e-6
    cos_first: bool = False
    freq_shift: int = 1
    time_scale: float = 1.0
    downsample_padding: tuple[int, int] = (0, 1)
    scale_shift: bool = False
    num_heads: int = 1
    head_channels: int | None = None
    resblock_updown: bool = False
    kernel_init: Initializer = ddpm_init
    zero_init: Initializer = ddpm_zero_init

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None = None,
        train: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the network.

        Args:
            x: images in [-1, 1], (b, h, w, c); h and w divisible by 2^(levels - 1).
            t: diffusion steps, whole or fractional, () or (b,).
            label: integers in 0..n-1, or n for "no label", () or (b,); None is n for
                every example. A label outside gives NaN.
            train: turns dropout on; it draws from the rng "dropout".
            dropout_keys: (b,), a key for each example in place of that rng, so that
                its masks do not depend on the batch that it is in.

        Returns:
            float32, (b, h, w, out_channels).

        Raises:
            ValueError: if a shape or a label does not fit the network, the groups or
                heads do not divide a width, or a field is of no use.
        """
        self._check(x, t)
        widths = self._widths()
        embedding = self._embed(x.shape[0], t, label)
        residual = partial(self._residual, embedding, train, dropout_keys)

        def block(h: jax.Array, width: int, side: str, i: int) -> jax.Array:
            h = residual(h, width, f"{side}_block_{i}")
            if h.shape[1] in self.attention_resolutions:
                h = self._attend(h, f"{side}_attention_{i}")
            return h

        h = self._conv(widths[0], self.dtype, self.kernel_init, "conv_in")(x)
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.num_blocks):
                h = block(h, width, f"down_{level}", i)
                skips.append(h)
            if level < len(widths) - 1:
                name = f"down_{level}_downsample"
                if self.resblock_updown:
                    h = residual(h, width, name, average_downsample)
                else:
                    h = self._downsample(name)(h)
                skips.append(h)

        h = residual(h, widths[-1], "mid_block_0")
        h = self._attend(h, "mid_attention", self.mid_attention_norm)
        h = residual(h, widths[-1], "mid_block_1")

        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, f"up_{level}", i)
            if level > 0:
                name = f"up_{level}_upsample"
                if self.resblock_updown:
                    h = residual(h, width, name, nearest_upsample)
                else:
                    h = self._upsample(name)(h)

        return self._output(h)

    def _widths(self) -> list[int]:
        return [round(multiplier * self.channels) for multiplier in self.multipliers]

    def _embed(self, batch: int, t: jax.Array, label: jax.Array | None) -> jax.Array:
        """Time and label as every residual block reads them, (b, 4 * channels)."""
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,))
        embedding = TimeEmbedding(
            self.channels,
            cos_first=self.cos_first,
            freq_shift=self.freq_shift,
            kernel_init=self.kernel_init,
            name="time",
        )(t * self.time_scale)
        if self.num_classes is None:
            if label is not None:
                raise ValueError("a network without num_classes takes no label")
            return embedding
        if label is None:
            if not self.null_label:
                raise ValueError("a network with null_label=False needs a label")
            label = jnp.asarray(self.num_classes)
        rows = LabelEmbedding(
            self.num_classes + self.null_label, 4 * self.channels, name="label"
        )(label, batch)
        return embedding + rows

    def _residual(
        self,
        embedding: jax.Array,
        train: bool,
        dropout_keys: jax.Array | None,
        h: jax.Array,
        width: int,
        name: str,
        resample: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        block = self._recomputed(ResBlock, static_argnums=(3,))(
            width,
            dropout=self.dropout,
            scale_shift=self.scale_shift,
            resample=resample,
            num_groups=self.num_groups,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            zero_init=self.zero_init,
            convolve=self.convolutions.same,
            name=name,
        )
        after: jax.Array = block(h, embedding, train, dropout_keys)
        return after

    def _recomputed(self, cls: Any, **options: Any) -> Any:
        """The class of a block whose backward pass keeps what `remat` says."""
        if self.recomputes == "none":
            return cls
        return nn.remat(cls, policy=_KEPT[self.recomputes], **options)

    @property
    def recomputes(self) -> Remat:
        """`remat` by its name."""
        if isinstance(self.remat, bool):
            return "blocks" if self.remat else "none"
        return self.remat

    def _attend(self, h: jax.Array, name: str, norm: bool = True) -> jax.Array:
        block = self._recomputed(AttentionBlock)(
            num_heads=self._num_heads(h.shape[-1]),
            num_groups=self.num_groups if norm else None,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            zero_init=self.zero_init,
            attention=self.attention,
            name=name,
        )
        after: jax.Array = block(h)
        return after

    def _num_heads(self, width: int) -> int:
        if self.head_channels is None:
            if width % self.num_heads:
                raise ValueError(
                    f"num_heads must divide the width {width}; got {self.num_heads}"
                )
            return self.num_heads
        if width % self.head_channels:
            raise ValueError(
                f"head_channels must divide the width {width}; got {self.head_channels}"
            )
        return width // self.head_channels

    def _downsample(self, name: str) -> Downsample:
        return Downsample(
            self.downsample_padding, self.dtype, self.kernel_init, name=name
        )

    def _upsample(self, name: str) -> Upsample:
        return Upsample(
            self.dtype, self.kernel_init, self.convolutions.upsampled, name=name
        )

    def _conv(self, features: int, dtype: Any, init: Initializer, name: str) -> Conv:
        return Conv(features, 3, dtype, init, self.convolutions.same, name=name)

    def _output(self, h: jax.Array) -> jax.Array:
        """The last norm and convolution, in float32 whatever came before."""
        norm = GroupNorm(
            self.num_groups, epsilon=self.norm_eps, dtype=jnp.float32, name="norm_out"
        )
        conv = self._conv(self.out_channels, jnp.float32, self.zero_init, "conv_out")
        return conv(nn.swish(norm(h)))

    def _check(self, x: jax.Array, t: jax.Array) -> None:
        if x.ndim != 4:
            raise ValueError(f"x must be images (b, h, w, c); got shape {x.shape}")
        if self.recomputes not in ("none", *_KEPT):
            raise ValueError(
                f"remat must be one of none, {', '.join(_KEPT)}; got {self.remat!r}"
            )
        for name in ("norm_eps", "time_scale"):  # at 0 a NaN, and blindness to t
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {value}")
        factor = 2 ** (len(self.multipliers) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"height and width must be divisible by {factor} for "
                f"{len(self.multipliers)} levels; got {x.shape[1]}x{x.shape[2]}"
            )
        if jnp.shape(t) not in ((), x.shape[:1]):
            raise ValueError(f"t must be () or {x.shape[:1]}; got {jnp.shape(t)}")
        for width, multiplier in zip(self._widths(), self.multipliers, strict=True):
            if abs(width - multiplier * self.channels) > 1e-6:
                raise ValueError(
                    "multipliers must give every level a whole number of channels; got "
                    f"{multiplier} of {self.channels}"
                )
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups must divide every width; got {self.num_groups} "
                    f"for the width {width}"
                )
        if self.has_variable("params", "conv_in"):
            kernel: jax.Array = self.get_variable("params", "conv_in")["kernel"]
            if x.shape[3] != kernel.shape[2]:
                raise ValueError(
                    f"these parameters are for images of {kernel.shape[2]} channels; "
                    f"got {x.shape[3]}"
                )

"""The U-Net of DDPM (Ho et al., 2020, appendix B) and of its published descendants.

The field defaults are DDPM's. Improved DDPM (Nichol and Dhariwal, 2021), guided
diffusion (Dhariwal and Nichol, 2021) and diffusers' `UNet2DModel` differ from it in the
plain fields under "Descendants"; `presets` has their published settings.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.networks.layers import (
    Attention,
    AttentionBlock,
    Downsample,
    GroupNorm,
    Initializer,
    ResBlock,
    Upsample,
    average_downsample,
    ddpm_init,
    ddpm_zero_init,
    nearest_upsample,
    time_embedding,
)


class UNet(nn.Module):
    """The network of a diffusion model: (x, t, label) -> an image of `out_channels`.

    Attributes:
        out_channels: channels of the output; twice the image's with a learned variance.
        channels: width that `multipliers` multiply; the time embedding has this width.
        multipliers: one per resolution level, finest first; each level halves the image.
        num_blocks: residual blocks per level on the way down (one more on the way up).
        attention_resolutions: heights of the feature maps that get attention after
            every residual block; the coarsest level always has one in the middle.
        dropout: probability, inside the residual blocks and in training only.
        num_classes: number n of labels; None for an unconditional network.
        num_groups: groups of every group normalisation; must divide every width.
        dtype: what the network computes in; parameters and output are float32.
        remat: recompute the blocks in the backward pass to save memory.
        attention: (q, k, v), each (b, pixels, heads, channels) -> the same shape; for
            fused attention pass a partial of `jax.nn.dot_product_attention`.

    Descendants:
        null_label: the embedding has a last row, n, for "no label" (classifier-free
            guidance); guided diffusion's class-conditional networks have none.
        norm_eps: of the group normalisations; 1e-5 in Improved DDPM and PyTorch.
        cos_first, freq_shift: form of `time_embedding`; Improved DDPM: True, 0.
        time_scale: t is multiplied by it; Improved DDPM rescales to 1000 / T.
        downsample_padding: (before, after); Improved DDPM pads (1, 1).
        scale_shift: the embedding scales and shifts the second norm (Improved DDPM).
        num_heads: attention heads (Improved DDPM: 4).
        head_channels: channels per head, in place of `num_heads` (guided diffusion).
        resblock_updown: residual blocks change the resolution (guided diffusion).
        kernel_init, zero_init: rules for kernels, and for those that end a branch.
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
    remat: bool = False
    attention: Attention = jax.nn.dot_product_attention
    null_label: bool = True
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
    ) -> jax.Array:
        """Runs the network; (b, h, w, c) -> float32 (b, h, w, out_channels).

        Args:
            x: images, (b, h, w, c); h and w divisible by 2^(levels - 1).
            t: diffusion steps, whole or fractional, () or (b,).
            label: integers in 0..n-1, or n for "no label"; () or (b,). None is n for
                everyone. A label outside gives NaN.
            train: turns dropout on, which reads the rng "dropout".

        Raises:
            ValueError: if a shape does not fit, `num_groups` or the heads do not divide
                a width, or a label is given to a network without labels.
        """
        self._check(x, t)
        widths = [int(m * self.channels) for m in self.multipliers]
        levels = range(len(widths))
        embedding = self._embed(x.shape[0], t, label)

        def block(h, features, name, resample=None):
            cls = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
            return cls(
                features,
                dropout=self.dropout,
                scale_shift=self.scale_shift,
                resample=resample,
                zero_init=self.zero_init,
                name=name,
                **self._common(norm=True),
            )(h, embedding, train)

        h = self._conv(widths[0], "conv_in")(x)
        skips = [h]
        for level in levels:
            for i in range(self.num_blocks):
                h = block(h, widths[level], f"down_{level}_block_{i}")
                if h.shape[1] in self.attention_resolutions:
                    h = self._attend(h, f"down_{level}_attention_{i}")
                skips.append(h)
            if level != levels[-1]:
                name = f"down_{level}_downsample"
                if self.resblock_updown:
                    h = block(h, widths[level], name, average_downsample)
                else:
                    h = Downsample(
                        self.downsample_padding, name=name, **self._common()
                    )(h)
                skips.append(h)

        h = block(h, widths[-1], "mid_block_0")
        h = self._attend(h, "mid_attention")
        h = block(h, widths[-1], "mid_block_1")

        for level in reversed(levels):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, widths[level], f"up_{level}_block_{i}")
                if h.shape[1] in self.attention_resolutions:
                    h = self._attend(h, f"up_{level}_attention_{i}")
            if level != 0:
                name = f"up_{level}_upsample"
                if self.resblock_updown:
                    h = block(h, widths[level], name, nearest_upsample)
                else:
                    h = Upsample(name=name, **self._common())(h)

        h = GroupNorm(
            self.num_groups, epsilon=self.norm_eps, dtype=self.dtype, name="norm_out"
        )(h)
        h = self._conv(self.out_channels, "conv_out", self.zero_init)(nn.swish(h))
        return h.astype(jnp.float32)

    def _common(self, norm: bool = False) -> dict[str, Any]:
        common = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        if norm:
            common |= {"num_groups": self.num_groups, "norm_eps": self.norm_eps}
        return common

    def _conv(self, features: int, name: str, init: Initializer | None = None):
        return nn.Conv(
            features,
            (3, 3),
            dtype=self.dtype,
            kernel_init=init or self.kernel_init,
            name=name,
        )

    def _attend(self, h: jax.Array, name: str) -> jax.Array:
        cls = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        heads = self.num_heads
        if self.head_channels is not None:
            heads = max(1, h.shape[-1] // self.head_channels)
        if h.shape[-1] % heads:
            raise ValueError(
                f"the attention heads must divide the width {h.shape[-1]}; got {heads}"
            )
        return cls(
            num_heads=heads,
            attention=self.attention,
            zero_init=self.zero_init,
            name=name,
            **self._common(norm=True),
        )(h)

    def _embed(self, batch: int, t: jax.Array, label: jax.Array | None) -> jax.Array:
        """The embedding of time and label that every residual block reads, (b, 4c)."""
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (batch,)) * self.time_scale
        embedding = time_embedding(
            t, self.channels, cos_first=self.cos_first, freq_shift=self.freq_shift
        )
        width = 4 * self.channels
        for i in range(2):
            embedding = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                name=f"time_dense_{i}",
            )(embedding if i == 0 else nn.swish(embedding))
        if self.num_classes is None:
            if label is not None:
                raise ValueError(
                    "a network without num_classes takes no label; got one"
                )
            return embedding
        if label is None:
            if not self.null_label:
                raise ValueError(
                    "a network with null_label=False needs a label; got None"
                )
            label = self.num_classes
        label = jnp.asarray(label)
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f"label must be integers; got {label.dtype}")
        if label.shape not in ((), (batch,)):
            raise ValueError(
                f"label must have shape () or ({batch},); got {label.shape}"
            )
        table = self.param(
            "label_embedding",
            nn.initializers.normal(1.0),
            (self.num_classes + self.null_label, width),
        )
        # A wrapped or clamped label would train the wrong class in silence.
        row = table.at[label].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        return embedding + jnp.broadcast_to(row, (batch, width)).astype(self.dtype)

    def _check(self, x: jax.Array, t: jax.Array) -> None:
        if x.ndim != 4:
            raise ValueError(f"x must be images (b, h, w, c); got shape {x.shape}")
        factor = 2 ** (len(self.multipliers) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"height and width must be divisible by {factor} for "
                f"{len(self.multipliers)} levels; got {x.shape[1]}x{x.shape[2]}"
            )
        if jnp.shape(t) not in ((), x.shape[:1]):
            raise ValueError(
                f"t must have shape () or {x.shape[:1]}; got {jnp.shape(t)}"
            )
        for multiplier in self.multipliers:
            if (width := int(multiplier * self.channels)) % self.num_groups:
                raise ValueError(
                    f"num_groups must divide every width; got {self.num_groups} "
                    f"for width {width}"
                )
        if self.has_variable("params", "conv_in"):
            expected = self.get_variable("params", "conv_in")["kernel"].shape[2]
            if x.shape[3] != expected:
                raise ValueError(
                    f"the parameters are for images of {expected} channels; "
                    f"got {x.shape[3]}"
                )

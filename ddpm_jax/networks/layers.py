"""The parts of the U-Net: residual blocks, attention, resampling.

Images are (b, h, w, c). Convolutions and attention run in `dtype`; parameters, group
statistics, the softmax and the embedding of time and label stay in float32.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.networks.convolutions import Convolution, direct, direct_upsampled

Initializer = Callable[..., jax.Array]
"""(key, shape, dtype) -> an initial parameter of that shape."""

Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(q, k, v), each (b, pixels, heads, channels) -> the same shape."""


@dataclasses.dataclass(frozen=True)
class ScaledUniform:
    """The rule U(-a, a) for kernels (..., in, out), of the variance scale / fan.

    "variance_scaling" of DDPM's code (Glorot & Bengio 2010).

    Attributes:
        scale: of the variance.
        fan: "fan_in", the inputs of an output, or "fan_avg", the mean with the outputs
            of an input.
    """

    scale: float
    fan: Literal["fan_in", "fan_avg"]

    def bound(self, shape: tuple[int, ...]) -> jax.Array:
        """a = sqrt(3 scale / fan), float32, shape ().

        Args:
            shape: of the kernel, (..., in, out).

        Returns:
            The bound, ().
        """
        fan_in, fan_out = (math.prod(shape[:-2]) * features for features in shape[-2:])
        fan = fan_in if self.fan == "fan_in" else (fan_in + fan_out) / 2
        return jnp.sqrt(3 * jnp.float32(self.scale / fan))

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
    ) -> jax.Array:
        """Draws a kernel. Consumes `key`.

        Args:
            key: of its random numbers, ().
            shape: (..., in, out).
            dtype: floating point.

        Returns:
            The kernel, of that shape.
        """
        return jax.random.uniform(key, shape, dtype, -1) * self.bound(shape)


ddpm_init = ScaledUniform(1.0, "fan_avg")
"""DDPM's rule for every kernel."""

ddpm_zero_init = ScaledUniform(1e-10, "fan_avg")
"""DDPM's rule for the kernels that end a residual branch: almost zero."""


def nearest_upsample(x: jax.Array) -> jax.Array:
    """An image twice as large, each pixel repeated (DDPM, appendix B).

    Args:
        x: (b, h, w, c).

    Returns:
        (b, 2h, 2w, c).
    """
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def average_downsample(x: jax.Array) -> jax.Array:
    """An image half as large, the means of 2x2 pixels (guided diffusion's code).

    Args:
        x: (b, h, w, c), h and w even.

    Returns:
        (b, h/2, w/2, c).
    """
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018), the variance taken about the mean.

    Flax's default E[x^2] - E[x]^2 loses all digits when a group's mean is far above its
    spread.

    Attributes:
        use_fast_variance: whether to take Flax's default.
    """

    use_fast_variance: bool = False


class Dropout(nn.Module):
    """Zeros at random, the rest scaled to keep the mean (Srivastava et al. 2014).

    Attributes:
        rate: the probability, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drops.

        Args:
            x: (b, ...).
            keys: (b,), one an example, whose mask then does not depend on the batch
                that it is in; None draws from the rng "dropout".

        Returns:
            (b, ...).
        """
        if self.rate == 0:
            return x
        if keys is None:
            key = self.make_rng("dropout")
            keep = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        else:
            place = zlib.crc32("/".join(self.path).encode())  # layers have masks apart

            def mask(key: jax.Array) -> jax.Array:
                key = jax.random.fold_in(key, place)
                return jax.random.bernoulli(key, 1 - self.rate, x.shape[1:])

            keep = jax.vmap(mask)(keys)
        return jnp.where(keep, x / (1 - self.rate), 0)


class Conv(nn.Module):
    """A convolution of 1x1 or 3x3 pixels, with a bias (DDPM's code).

    Attributes:
        features: channels of the output.
        size: 1 or 3.
        dtype: what it computes in; parameters are float32.
        kernel_init: the rule for the kernel; the bias starts at 0.
        convolve: the 3x3 convolution, which says how large the result is; parameters do
            not depend on it.
    """

    features: int
    size: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = ddpm_init
    convolve: Convolution = direct

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves.

        Args:
            x: (b, h, w, c).

        Returns:
            (b, h', w', features).

        Raises:
            ValueError: if size is neither 1 nor 3.
        """
        if self.size not in (1, 3):
            raise ValueError(f"size must be 1 or 3; got {self.size}")
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x = x.astype(self.dtype)
        if self.size == 1:
            y = x @ kernel[0, 0].astype(self.dtype)
        else:
            y = self.convolve(x, kernel)
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class ResBlock(nn.Module):
    """The residual block (DDPM, appendix B): two convolutions, told the time between.

    Attributes:
        features: output channels; a 1x1 shortcut appears where they differ from x's.
        dropout: probability of dropping before the second convolution.
        scale_shift: the embedding scales and shifts the second norm (Improved DDPM,
            section "architecture") instead of being added before it.
        resample: applied to both branches before the first convolution (BigGAN blocks,
            guided diffusion): `nearest_upsample`, `average_downsample` or None.
        num_groups: of the normalisations; must divide the channels.
        norm_eps: added to the variances.
        dtype: what the convolutions compute in.
        kernel_init: the rule for kernels.
        zero_init: the rule for the kernel that ends the block.
        convolve: the 3x3 convolution.
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = False
    resample: Callable[[jax.Array], jax.Array] | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    kernel_init: Initializer = ddpm_init
    zero_init: Initializer = ddpm_zero_init
    convolve: Convolution = direct

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        embedding: jax.Array,
        train: bool,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the block.

        Args:
            x: (b, h, w, c).
            embedding: of time and label, (b, e).
            train: turns dropout on.
            dropout_keys: (b,), as `Dropout` takes them.

        Returns:
            (b, h', w', features).
        """

        def conv(
            features: int, size: int, name: str, init: Initializer = self.kernel_init
        ) -> Conv:
            return Conv(features, size, self.dtype, init, self.convolve, name=name)

        def norm(name: str) -> GroupNorm:
            return GroupNorm(
                self.num_groups, epsilon=self.norm_eps, dtype=self.dtype, name=name
            )

        h = nn.swish(norm("norm1")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv(self.features, 3, "conv1")(h)
        embedding = nn.Dense(
            self.features * (2 if self.scale_shift else 1),
            dtype=jnp.float32,
            kernel_init=self.kernel_init,
            name="embed",
        )(nn.swish(embedding)).astype(self.dtype)[:, None, None, :]
        if self.scale_shift:
            scale, shift = jnp.split(embedding, 2, axis=-1)
            h = norm("norm2")(h) * (1 + scale) + shift
        else:
            h = norm("norm2")(h + embedding)
        h = nn.swish(h)
        if train:
            h = Dropout(self.dropout)(h, dropout_keys)
        h = conv(self.features, 3, "conv2", self.zero_init)(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, "shortcut")(x)
        total: jax.Array = x + h
        return total


class AttentionBlock(nn.Module):
    """Residual self-attention over all pixels (DDPM, appendix B).

    Attributes:
        num_heads: heads; each sees channels / num_heads channels, and its logits are
            scaled by the root of that number. DDPM has 1, Improved DDPM 4.
        num_groups: of the normalisation before it; None for no normalisation.
        norm_eps: added to the variances.
        dtype: what it computes in.
        kernel_init: the rule for kernels.
        zero_init: the rule for the kernel that ends the block.
        attention: (q, k, v), each (b, pixels, heads, channels) -> the same shape.
    """

    num_heads: int = 1
    num_groups: int | None = 32
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    kernel_init: Initializer = ddpm_init
    zero_init: Initializer = ddpm_zero_init
    attention: Attention = jax.nn.dot_product_attention

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Runs the block.

        Args:
            x: (b, h, w, c).

        Returns:
            (b, h, w, c).
        """
        b, h, w, c = x.shape

        def dense(name: str, init: Initializer = self.kernel_init) -> nn.Dense:
            return nn.Dense(c, dtype=self.dtype, kernel_init=init, name=name)

        normed = x
        if self.num_groups is not None:
            normed = GroupNorm(
                self.num_groups, epsilon=self.norm_eps, dtype=self.dtype, name="norm"
            )(x)
        heads = (b, h * w, self.num_heads, c // self.num_heads)
        q, k, v = (
            dense(name)(normed).reshape(heads) for name in ("query", "key", "value")
        )
        mixed = self.attention(q, k, v).reshape(b, h, w, c)
        total: jax.Array = x + dense("out", self.zero_init)(mixed)
        return total


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 (DDPM, appendix B).

    Attributes:
        padding: zeros (before, after) on both axes: (0, 1) is TensorFlow's "SAME" on
            even sizes (DDPM), (1, 1) PyTorch's padding=1 (Improved DDPM).
        dtype: what it computes in.
        kernel_init: the rule for the kernel.
    """

    padding: tuple[int, int] = (0, 1)
    dtype: Any = jnp.float32
    kernel_init: Initializer = ddpm_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Halves both sides.

        Args:
            x: (b, h, w, c), h and w even.

        Returns:
            (b, h/2, w/2, c).

        Raises:
            ValueError: if the padding makes it another size than half.
        """
        if min(self.padding) < 0 or sum(self.padding) not in (1, 2):
            raise ValueError(
                "padding must be two numbers of at least 0 that add up to 1 or 2; got "
                f"{self.padding}"
            )
        return nn.Conv(
            x.shape[-1],
            (3, 3),
            strides=2,
            padding=(self.padding, self.padding),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Nearest neighbours, then a 3x3 convolution (DDPM, appendix B).

    Attributes:
        dtype: what it computes in.
        kernel_init: the rule for the kernel.
        convolve: the convolution of the enlarged image.
    """

    dtype: Any = jnp.float32
    kernel_init: Initializer = ddpm_init
    convolve: Convolution = direct_upsampled

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles both sides.

        Args:
            x: (b, h, w, c).

        Returns:
            (b, 2h, 2w, c).
        """
        conv = Conv(
            x.shape[-1], 3, self.dtype, self.kernel_init, self.convolve, name="conv"
        )
        return conv(x)

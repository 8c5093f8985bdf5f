"""What the network is told besides the image: the diffusion step and the label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.networks.layers import Initializer, ddpm_init


def time_embedding(
    t: jax.Array, dim: int, *, cos_first: bool = False, freq_shift: int = 1
) -> jax.Array:
    """The sinusoidal embedding of diffusion steps, float32, shape (*t.shape, dim).

    The i-th of `dim // 2` frequencies is 10000^(-i / (dim // 2 - freq_shift)); an odd
    `dim` ends in a zero. DDPM takes it from Vaswani et al. (2017), section 3.5.

    Args:
        t: steps, whole or fractional, any shape.
        dim: width of the embedding, at least 4.
        cos_first: [cos, sin] (Improved DDPM) instead of [sin, cos] (DDPM).
        freq_shift: 1 (DDPM) or 0 (Improved DDPM); below dim // 2.

    Raises:
        ValueError: if `dim` is below 4, or `freq_shift` not below half of it.
    """
    if dim < 4:
        raise ValueError(f"the time embedding needs at least 4 channels; got {dim}")
    half = dim // 2
    if freq_shift >= half:  # a division by 0, or frequencies that grow without bound
        raise ValueError(
            f"freq_shift must be below half of the {dim} channels; got {freq_shift}"
        )
    # The last bit of a frequency moves the embedding by 3e-5 at t = 999, and public
    # weights know the float32 frequencies: the exponents are rounded before the exp.
    rate = np.float32(-np.log(10000.0) / (half - freq_shift))
    exponents = np.arange(half, dtype=np.float32) * rate
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    t = jnp.asarray(t, jnp.float32)
    angles = t[..., None] * frequencies.reshape((1,) * t.ndim + (half,))
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    embedding = jnp.concatenate([cos, sin] if cos_first else [sin, cos], axis=-1)
    return jnp.pad(embedding, [(0, 0)] * t.ndim + [(0, dim % 2)])


class TimeEmbedding(nn.Module):
    """`time_embedding` and the two layers after it: (b,) -> (b, 4 * channels)."""

    channels: int
    cos_first: bool = False
    freq_shift: int = 1
    kernel_init: Initializer = ddpm_init

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embeds steps, whole or fractional."""

        def dense(name):
            return nn.Dense(
                4 * self.channels,
                dtype=jnp.float32,
                kernel_init=self.kernel_init,
                name=name,
            )

        embedding = time_embedding(
            t, self.channels, cos_first=self.cos_first, freq_shift=self.freq_shift
        )
        return dense("dense2")(nn.swish(dense("dense1")(embedding)))


class LabelEmbedding(nn.Module):
    """One learned row per label: integers () or (b,) -> (b, features).

    A label outside 0..num_rows-1 gives NaN: wrapped or clamped, it would train the
    wrong class in silence.
    """

    num_rows: int
    features: int

    @nn.compact
    def __call__(self, label: jax.Array, batch: int) -> jax.Array:
        """Looks the labels up.

        Raises:
            ValueError: if `label` is not of integers, or not of shape () or (b,).
        """
        label = jnp.asarray(label)
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f"label must hold integers; got {label.dtype}")
        if label.shape not in ((), (batch,)):
            raise ValueError(f"label must be () or ({batch},); got {label.shape}")
        table = self.param(
            "embedding", nn.initializers.normal(1.0), (self.num_rows, self.features)
        )
        rows = table.at[label].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        return jnp.broadcast_to(rows, (batch, self.features))

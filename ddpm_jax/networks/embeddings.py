"""What the network is told besides the image: the diffusion step and the label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.networks.layers import Initializer, ddpm_init


def time_embedding(
    t: jax.Array, dim: int, *, cos_first: bool = False, freq_shift: int = 1
) -> jax.Array:
    """The sinusoidal embedding of diffusion steps (Vaswani et al. 2017, section 3.5).

    The i-th of `dim // 2` frequencies is 10000^(-i / (dim // 2 - freq_shift)); an odd
    `dim` ends in a zero.

    Args:
        t: steps, whole or fractional, of any shape.
        dim: width of the embedding, at least 4.
        cos_first: [cos, sin] (Improved DDPM) instead of [sin, cos] (DDPM).
        freq_shift: 1 (DDPM) or 0 (Improved DDPM); below dim // 2.

    Returns:
        The embedding in [-1, 1], float32, shape (*t.shape, dim).

    Raises:
        ValueError: if `dim` is below 4, or `freq_shift` not below half of it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.networks import time_embedding
        >>> embedding = time_embedding(jnp.array([0, 500, 999]), 128)
        >>> embedding.shape, float(embedding[0, 0]), float(embedding[0, -1])
        ((3, 128), 0.0, 1.0)
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
    """`time_embedding` and the two layers after it (DDPM's code).

    Attributes:
        channels: width of the embedding; that of the result is four times as much.
        cos_first: as for `time_embedding`.
        freq_shift: as for `time_embedding`.
        kernel_init: the rule for kernels.
    """

    channels: int
    cos_first: bool = False
    freq_shift: int = 1
    kernel_init: Initializer = ddpm_init

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embeds steps, whole or fractional.

        Args:
            t: (b,).

        Returns:
            float32, (b, 4 * channels).

        Raises:
            ValueError: as `time_embedding`.
        """

        def dense(name: str) -> nn.Dense:
            return nn.Dense(
                4 * self.channels,
                dtype=jnp.float32,
                kernel_init=self.kernel_init,
                name=name,
            )

        embedding = time_embedding(
            t, self.channels, cos_first=self.cos_first, freq_shift=self.freq_shift
        )
        features: jax.Array = dense("dense2")(nn.swish(dense("dense1")(embedding)))
        return features


class LabelEmbedding(nn.Module):
    """One learned row per label (guided diffusion's code, its rows N(0, 1) at first).

    A label outside 0..num_rows-1 gives NaN: wrapped or clamped, it would train the
    wrong class in silence.

    Attributes:
        num_rows: how many labels there are.
        features: width of a row.
    """

    num_rows: int
    features: int

    @nn.compact
    def __call__(self, label: jax.Array, batch: int) -> jax.Array:
        """Looks the labels up.

        Args:
            label: integers in 0..num_rows-1, () or (b,).
            batch: b.

        Returns:
            float32, (b, features).

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

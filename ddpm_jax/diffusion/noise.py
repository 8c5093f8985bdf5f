"""Noise from one key, or from one key per example.

With an array of keys, one per example, what an example draws depends on its own key and
not on the batch that it stands in.
"""

import jax
import jax.numpy as jnp


def typed_key(key: jax.Array) -> jax.Array:
    """The key itself, or the typed key of an old `jax.random.PRNGKey`."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def draw_noise(key: jax.Array, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Standard normal noise of the shape and dtype of `like`. Consumes `key`.

    Args:
        key: one key, or (batch,) keys for `like` of shape (batch, *data).

    Raises:
        ValueError: if there is another number of keys.
    """
    key = typed_key(key)
    if key.shape not in ((), like.shape[:1]):
        raise ValueError(
            "there must be one key, or one for each example of the batch of shape "
            f"{like.shape}; got keys of shape {key.shape}"
        )
    if key.ndim == 0:
        return jax.random.normal(key, like.shape, like.dtype)
    own = like.shape[1:]
    return jax.vmap(lambda each: jax.random.normal(each, own, like.dtype))(key)


def fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in` for one key or an array of them, all with the same data."""
    key = typed_key(key)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda each: jax.random.fold_in(each, data))(key)

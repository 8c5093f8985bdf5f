"""Noise from one key, or from one key per example.

With an array of keys, one per example, what an example draws depends on its own key and
not on the batch that it stands in. That is a law of JAX's generator threefry2x32 alone:
under `jax.vmap`, rbg draws with the first key for all, and unsafe_rbg also splits and
folds with it. So keys of either are turned into threefry2x32's before any use.
"""

from typing import cast

import jax
import jax.numpy as jnp
from jax import Array

THREEFRY = "threefry2x32"
"""The generator whose keys draw alike in any batch."""

Key = Array | int
"""A key, or (batch,) of them, or the seed of a key."""


def threefry_key(key: Key) -> Array:
    """The typed threefry2x32 key, or keys, that a key of any of JAX's generators names.

    `jax.random.key(seed)` and an old `jax.random.PRNGKey(seed)` name the same one under
    every generator, whatever `jax_default_prng_impl` says; a seed itself is one too.

    Args:
        key: a key, an array of keys (batch,), raw words (batch, 2) or (batch, 4), or a
            seed, a whole number of 64 bits.

    Returns:
        The typed key, (), or keys, (batch,).

    Raises:
        ValueError: if it is a key of none of them, and no seed.
    """
    words = key
    if not hasattr(words, "dtype"):
        if not isinstance(words, int) or not -(2**63) <= words < 2**63:
            raise ValueError(
                "a key must be one of jax.random.key, or a seed, a whole number of 64 "
                f"bits; got {words!r}"
            )
        return jax.random.key(words, impl=THREEFRY)
    words = cast(Array, words)  # or NumPy's
    if jnp.issubdtype(words.dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(words)) == THREEFRY:
            return words
        words = jax.random.key_data(words)
    whole = jnp.issubdtype(words.dtype, jnp.integer)
    if words.ndim == 0 and whole and words.dtype != jnp.uint32:  # a word of a key
        return jax.random.key(words, impl=THREEFRY)
    if words.dtype != jnp.uint32 or words.ndim == 0 or words.shape[-1] not in (2, 4):
        raise ValueError(
            "a key must be one of jax.random.key, of the generator threefry2x32, rbg "
            f"or unsafe_rbg; got {words.dtype} of shape {words.shape}"
        )
    first, second = words[..., :2], words[..., 2:]
    typed: Array = jax.random.wrap_key_data(first, impl=THREEFRY)
    if not second.shape[-1]:
        return typed
    # A seed fills both halves alike; where they differ, each must count.
    fold = jnp.vectorize(jax.random.fold_in)
    mixed = fold(fold(typed, second[..., 0]), second[..., 1])
    chosen: Array = jnp.where(jnp.all(first == second, axis=-1), typed, mixed)
    return chosen


def draw_noise(key: Key, like: Array | jax.ShapeDtypeStruct) -> Array:
    """Standard normal noise of the shape and dtype of `like`.

    Args:
        key: one key, which is consumed, or keys (batch,), one per example.
        like: (batch, *data); its values are not read.

    Returns:
        The noise, (batch, *data).

    Raises:
        ValueError: unless there is one key, or (batch,) of them.
    """
    key = threefry_key(key)
    if key.shape not in ((), like.shape[:1]):
        raise ValueError(
            "there must be one key, or one for each example of the batch of shape "
            f"{like.shape}; got keys of shape {key.shape}"
        )
    if key.ndim == 0:
        return jax.random.normal(key, like.shape, like.dtype)
    own = like.shape[1:]
    return jax.vmap(lambda each: jax.random.normal(each, own, like.dtype))(key)


def fold_in(key: Key, data: jax.typing.ArrayLike) -> Array:
    """`jax.random.fold_in` for one key or an array of them, all with the same data.

    Args:
        key: a key or a seed, or keys (batch,).
        data: a whole number of 32 bits, ().

    Returns:
        The new key, (), or keys, (batch,).

    Raises:
        ValueError: as `threefry_key`.
    """
    key = threefry_key(key)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, data)

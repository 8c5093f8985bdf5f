"""The norm of a gradient, and clipping by it, with few programs to compile."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

SMALL = 2**12  # elements of an array that is summed together with others


def global_norm(tree: Any) -> jax.Array:
    """The Euclidean norm () of all arrays of a tree together.

    Small arrays, two thirds of a U-Net's, are put into one: of each sum a compiler
    makes a program of its own.
    """
    leaves = jax.tree.leaves(tree)
    arrays = [x for x in leaves if x.size > SMALL]
    small = [x.ravel() for x in leaves if x.size <= SMALL]
    if small:
        arrays.append(jnp.concatenate(small))
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in arrays))


def clip_by_global_norm(bound: float) -> optax.GradientTransformation:
    """Multiplies all by bound / norm where their norm is larger, by 1 where it is not.

    As Optax's, whose state it has, but one product for each element and no quotient.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.minimum(1, bound / global_norm(updates))
        return jax.tree.map(lambda x: x * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

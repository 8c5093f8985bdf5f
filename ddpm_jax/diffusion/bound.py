"""Functions with values bound to them, as pytrees: what keeps compiled samplers alive.

A closure is a new function every time it is made, and a jitted function that receives
it compiles again; what it closes over becomes a constant of the program. `Bound` does
neither: two of them are the same program where their functions and options are equal,
and their numbers are arguments of the program.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_pytree_node_class
class Bound:
    """function(*arguments, **values) as a function of its arguments; a pytree.

    Floats and arrays (and pytrees of numbers) among the values are its leaves: traced
    under jit, so that a new guidance scale compiles nothing. All else (functions,
    integers, booleans) is part of the program and must be hashable.
    """

    def __init__(self, function: Callable[..., Any], /, **values: Any):
        self.function = function
        self.numbers = {k: v for k, v in values.items() if _is_number(v)}
        self.options = {k: v for k, v in values.items() if not _is_number(v)}

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Calls the function with the bound values as keywords."""
        return self.function(*arguments, **self.numbers, **self.options, **more)

    def __repr__(self) -> str:
        values = {**self.numbers, **self.options}
        listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"{getattr(self.function, '__name__', self.function)}({listed})"

    def tree_flatten(self) -> tuple[tuple[dict[str, Any]], Any]:
        """The numbers, and the rest as a hashable value."""
        return (self.numbers,), (self.function, tuple(self.options.items()))

    @classmethod
    def tree_unflatten(cls, rest: Any, children: tuple[dict[str, Any]]) -> "Bound":
        """The inverse of `tree_flatten`, whatever the leaves have become."""
        bound = cls.__new__(cls)
        bound.function, options = rest
        bound.options = dict(options)
        (bound.numbers,) = children
        return bound


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself if it is a pytree (Bound, Partial, a module), else bound."""
    return Bound(function) if jax.tree_util.all_leaves([function]) else function


def _is_number(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    traced: tuple[type, ...] = (float, np.ndarray, np.generic, jax.Array)
    if not jax.tree_util.all_leaves([value]):
        traced = (int, *traced)  # a bound network's, which may be any numbers
    return all(isinstance(leaf, traced) for leaf in leaves)

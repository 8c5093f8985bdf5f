"""Functions with values bound to them, as pytrees: what keeps compiled samplers alive.

A closure of Python's is a new function every time it is made: jit compiles it again,
and what it closes over becomes a constant of the program. A `Closure` is the same
program as another one where all but their arrays is equal, and its arrays are arguments
of the program.
"""

from collections.abc import Callable
from typing import Any, Self

import jax
import numpy as np
from jax.tree_util import Partial

_TRACED = (jax.Array, np.ndarray, np.generic, float, complex)
_HOLE = object()  # stands in a program where a child belongs


@jax.tree_util.register_pytree_node_class
class Closure:
    """function(*arguments, **values) as a function of its arguments; a pytree.

    The arrays and floats anywhere in the function and in the values are its leaves,
    traced under jit. All else (functions, whole numbers, modules that are no pytrees)
    is part of the program and must be hashable. So any callable pytree is at home here:
    a module of Equinox or NNX, a dataclass of arrays, a `Partial`, whose numbers are
    all traced, as jit traces them.

    Raises:
        ValueError: if the function is not callable, or something in it is neither
            traced nor hashable.

    Examples:
        >>> import jax
        >>> from ddpm_jax.diffusion.closures import Closure
        >>> def scaled(x, *, factor):
        ...     return factor * x
        >>> twice = Closure(scaled, factor=2.0)
        >>> twice(21.0), twice.replace(factor=3.0)(21.0)
        (42.0, 63.0)
        >>> jax.tree.leaves(twice)
        [2.0]
    """

    def __init__(self, function: Callable[..., Any], /, **values: Any):
        if not callable(function):
            raise ValueError(f"a function was expected; got {function!r}")
        traced = (Closure, *_TRACED, *([int] if isinstance(function, Partial) else []))
        leaves, structure = jax.tree.flatten(
            (function, values), is_leaf=lambda leaf: isinstance(leaf, Closure)
        )
        self._children = [leaf for leaf in leaves if isinstance(leaf, traced)]
        rest = [_HOLE if isinstance(leaf, traced) else leaf for leaf in leaves]
        for leaf in rest:
            try:
                hash(leaf)
            except TypeError as error:
                raise ValueError(
                    "what a function is bound to must be arrays, pytrees of them, or "
                    f"hashable; got {leaf!r}"
                ) from error
        self._program = (structure, tuple(rest))

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function with the bound values as keywords.

        Args:
            arguments: its others, by place.
        """
        function, values = self._parts()
        return function(*arguments, **values)

    def replace(self, **values: Any) -> Self:
        """The same function with other values for some of its names.

        Args:
            values: by name.

        Returns:
            A closure of the same class.

        Raises:
            ValueError: if something in them is neither traced nor hashable.
        """
        return type(self)(self.function, **{**self.values, **values})

    @property
    def function(self) -> Callable[..., Any]:
        """What is called."""
        return self._parts()[0]

    @property
    def values(self) -> dict[str, Any]:
        """What is bound, by name."""
        return self._parts()[1]

    def __repr__(self) -> str:
        function, values = self._parts()
        listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"{getattr(function, '__name__', function)}({listed})"

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """What is traced, and the rest as a hashable value."""
        return self._children, self._program

    @classmethod
    def tree_unflatten(cls, program: Any, children: Any) -> Self:
        """The inverse of `tree_flatten`, whatever the leaves have become.

        Args:
            program: the hashable part.
            children: what is traced.
        """
        closure = cls.__new__(cls)
        closure._children, closure._program = list(children), program
        return closure

    def _parts(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        structure, rest = self._program
        children = iter(self._children)
        leaves = [next(children) if leaf is _HOLE else leaf for leaf in rest]
        function, values = jax.tree.unflatten(structure, leaves)
        return function, values


def as_closure(function: Callable[..., Any]) -> Closure:
    """The function itself if it is a Closure, else bound to nothing.

    Args:
        function: anything that can be called.

    Returns:
        A pytree that is called as the function is.

    Raises:
        ValueError: as `Closure`.
    """
    return function if isinstance(function, Closure) else Closure(function)

"""Model FLOPs: what a function multiplies and adds, counted before any compiler."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core as jax_core

Jaxpr = jax_core.Jaxpr | jax_core.ClosedJaxpr


def model_flops(function: Callable, *arguments: Any) -> float:
    """Floating-point operations of the convolutions and matrix products alone.

    Two for each multiply-add, over all devices. Elementwise work is left out, as is
    usual for "model FLOPs". What `jax.checkpoint` recomputes is counted: give it the
    function without.

    Args:
        arguments: arrays, or their shapes and dtypes.
    """
    return count(jax.make_jaxpr(function)(*arguments))


def count(jaxpr: Jaxpr) -> float:
    """`model_flops` of a function that has been traced."""
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(shapes[0][d] for d in contracted)
            total += 2.0 * _size(equation.outvars[0]) * depth
        elif name == "conv_general_dilated":
            total += _convolution(params, shapes[1], _size(equation.outvars[0]))
        elif name == "cond":
            total += max(map(count, params["branches"]))
        else:
            total += _repeats(name, params) * sum(map(count, _inner(params)))
    return total


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _convolution(params: dict[str, Any], kernel: tuple[int, ...], out: int) -> float:
    """Each multiply-add of the definition, also those with the zeros of a padding.

    A stride of the forward pass is a dilation of the input in one backward pass and of
    the kernel in the other; there only every stride-th element is not a zero.
    """
    _, *read = (kernel[d] for d in params["dimension_numbers"].rhs_spec)
    return 2.0 * out * math.prod(read) / math.prod(params["lhs_dilation"])


def _repeats(name: str, params: dict[str, Any]) -> int:
    """How often an equation computes what is inside; of a `while`, once is counted."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        sizes = dict(params["mesh"].shape)
        # manual_axes, from jax 0.12 on newly_manual_axes
        axes = next(x for key, x in params.items() if key.endswith("manual_axes"))
        return math.prod(sizes[axis] for axis in axes)
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The functions that an equation calls."""
    for value in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(value):
            yield value


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jax_core.Jaxpr, jax_core.ClosedJaxpr))

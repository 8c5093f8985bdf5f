"""The rules that the fields of a config, and options, are held to; errors name them.

`unless` and its kind yield the line of a rule that is broken; `refuse` raises them all.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

# What is computed with is float32 and int32; jax.random.key takes 32 bits of a seed.
LARGEST_FLOAT, SMALLEST_FLOAT = 3.4028234e38, 1.1754944e-38
LARGEST_INT, LARGEST_SEED = 2**31 - 1, 2**32 - 1


def refuse(broken: Iterable[str]) -> None:
    """Raises one ValueError that lists the rules that are broken, if there are any."""
    lines = list(broken)
    if lines:
        raise ValueError("; ".join(lines))


def check_types(section: str, config: Any) -> None:
    """Raises ValueError unless every field is of its type; makes lists tuples.

    A number is also held to what it is computed in, as `unless_number` does.
    """
    broken: list[str] = []
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, name, value)
        label = f"{section}.{name}" if section else name
        if typing.get_origin(hint) is Literal:
            rule = f"one of {', '.join(map(str, typing.get_args(hint)))}"
        else:
            rule = f"of type {getattr(hint, '__name__', hint)}"
        if _is_of(value, hint):
            broken += unless_number(label, value)
        else:
            broken.append(f"{label} must be {rule}; got {value!r}")
    refuse(broken)


def check_options(options: Any, *, but: Sequence[str] = ()) -> None:
    """Raises ValueError for a field of a command line as `unless_number` does.

    Args:
        but: the names of fields that are passed over.
    """
    broken: list[str] = []
    for item in dataclasses.fields(options):
        if item.name in but:
            continue
        label = f"--{item.name.replace('_', '-')}"
        broken += unless_number(label, getattr(options, item.name))
    refuse(broken)


def check_count(name: str, value: int | None) -> None:
    """Raises ValueError unless the value is None or at least 1."""
    refuse(unless_count(name, value))


def unless(name: str, value: object, holds: bool, rule: str) -> Iterator[str]:
    """Yields a line with the name, the rule and the value unless it holds."""
    if not holds:
        yield f"{name} must be {rule}; got {value}"


def unless_number(name: str, value: Any) -> Iterator[str]:
    """Yields a line for a number, or the first in a tuple, that JAX would not keep.

    Those are floats that are not finite in float32, whole numbers beyond int32, and
    seeds outside 0..2^32 - 1, which `jax.random.key` takes modulo 2^32. What is no
    number passes.
    """
    if isinstance(value, tuple):
        lines = (line for each in value for line in unless_number(name, each))
        yield from itertools.islice(lines, 1)
    elif isinstance(value, float):
        yield from unless(name, value, abs(value) <= LARGEST_FLOAT, "finite in float32")
    elif isinstance(value, int) and name.endswith("seed"):
        within = 0 <= value <= LARGEST_SEED
        yield from unless(name, value, within, f"in 0..{LARGEST_SEED}")
    elif isinstance(value, int):
        yield from unless(name, value, abs(value) <= LARGEST_INT, "a number of 32 bits")


def unless_positive(name: str, value: float) -> Iterator[str]:
    """Yields a line unless the value is above 0, in float32 too."""
    yield from unless(name, value, value >= SMALLEST_FLOAT, "positive in float32")


def unless_count(
    name: str, value: int | None, most: int = LARGEST_INT
) -> Iterator[str]:
    """Yields a line unless the value is None or in 1..most."""
    rule = "at least 1" if most == LARGEST_INT else f"in 1..{most}"
    yield from unless(name, value, value is None or 1 <= value <= most, rule)


def unless_probability(name: str, value: float) -> Iterator[str]:
    """Yields a line unless the value lies in [0, 1), in float32 too."""
    yield from unless(name, value, 0 <= value <= 1 - 2**-24, "in [0, 1)")


def _is_of(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = arguments
        if arguments[-1] is Ellipsis:
            wanted = arguments[:1] * len(value)
        return len(value) == len(wanted) and all(map(_is_of, value, wanted))
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)

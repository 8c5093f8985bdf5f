"""The rules that the fields of a config, and options, are held to; errors name them."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

# What is computed with is float32 and int32; jax.random.key takes 32 bits of a seed.
LARGEST_FLOAT, SMALLEST_FLOAT = 3.4028234e38, 1.1754944e-38
LARGEST_INT, LARGEST_SEED = 2**31 - 1, 2**32 - 1


def check_types(section: str, config: Any) -> None:
    """Raises ValueError unless every field is of its type; makes lists tuples.

    A number is also held to what it is computed in, as `check_number` does.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, name, value)
        label = f"{section}.{name}" if section else name
        if not _is_of(value, hint):
            if typing.get_origin(hint) is Literal:
                rule = f"one of {', '.join(map(str, typing.get_args(hint)))}"
            else:
                rule = f"of type {getattr(hint, '__name__', hint)}"
            raise ValueError(f"{label} must be {rule}; got {value!r}")
        check_number(label, value)


def check_options(options: Any, *, but: Sequence[str] = ()) -> None:
    """`check_number` for every field of a command line's dataclass, but for these."""
    for item in dataclasses.fields(options):
        if item.name in but:
            continue
        label = f"--{item.name.replace('_', '-')}"
        check_number(label, getattr(options, item.name))


def check_number(name: str, value: Any) -> None:
    """Raises ValueError for a number, or one in a tuple, that JAX would not keep.

    Those are floats that are not finite in float32, whole numbers beyond int32, and
    seeds outside 0..2^32 - 1, which `jax.random.key` takes modulo 2^32. What is no
    number passes.
    """
    if isinstance(value, tuple):
        for each in value:
            check_number(name, each)
    elif isinstance(value, float):
        check(name, value, abs(value) <= LARGEST_FLOAT, "finite in float32")
    elif isinstance(value, int) and name.endswith("seed"):
        check(name, value, 0 <= value <= LARGEST_SEED, f"in 0..{LARGEST_SEED}")
    elif isinstance(value, int):
        check(name, value, abs(value) <= LARGEST_INT, "a number of 32 bits")


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


def check(name: str, value: object, holds: bool, rule: str) -> None:
    """Raises ValueError with the name, the rule and the value unless it holds."""
    if not holds:
        raise ValueError(f"{name} must be {rule}; got {value}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless the value is above 0, in float32 too."""
    check(name, value, value >= SMALLEST_FLOAT, "positive in float32")


def check_count(name: str, value: int | None, most: int = LARGEST_INT) -> None:
    """Raises ValueError unless the value is None or in 1..most."""
    rule = "at least 1" if most == LARGEST_INT else f"in 1..{most}"
    check(name, value, value is None or 1 <= value <= most, rule)


def check_probability(name: str, value: float) -> None:
    """Raises ValueError unless the value lies in [0, 1), in float32 too."""
    check(name, value, 0 <= value <= 1 - 2**-24, "in [0, 1)")

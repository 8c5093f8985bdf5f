"""The rules that the fields of a config are held to; an error names the field."""

import types
import typing
from typing import Any, Literal


def check_types(section: str, config: Any) -> None:
    """Raises ValueError unless every field is of its type; makes lists tuples."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, name, value)
        if not _is_of(value, hint):
            label = f"{section}.{name}" if section else name
            if typing.get_origin(hint) is Literal:
                rule = f"one of {', '.join(map(str, typing.get_args(hint)))}"
            else:
                rule = f"of type {getattr(hint, '__name__', hint)}"
            raise ValueError(f"{label} must be {rule}; got {value!r}")


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


def check_probability(name: str, value: float) -> None:
    """Raises ValueError unless the value lies in [0, 1)."""
    check(name, value, 0 <= value < 1, "in [0, 1)")

"""What diffusers' options must be for a model of ddpm_jax, and the other way round."""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Where our own config lies in unet/config.json; diffusers leaves names alone that begin
# with an underscore.
PRIVATE = "_ddpm_jax"

_SHORT = reprlib.Repr()  # of a thousand betas, the first eight
_SHORT.maxlist = 8
_SHORT.maxstring = 60


class Rule(NamedTuple):
    """An option with its value, whether that is one of ours, and what ours must be."""

    option: str
    value: Any
    holds: bool
    rule: str


def one_of(option: str, value: Any, allowed: Iterable[Any]) -> Rule:
    """The rule that a value is among some."""
    allowed = tuple(allowed)
    return Rule(option, value, value in allowed, " or ".join(map(repr, allowed)))


def hold(rules: Iterable[Rule]) -> None:
    """Holds diffusers' options against rules.

    Raises:
        ValueError: naming every option that breaks its rule.
    """
    broken = [
        f"{option} must be {rule}; got {_SHORT.repr(value)}"
        for option, value, holds, rule in rules
        if not holds
    ]
    if broken:
        raise ValueError(
            "diffusers' options are of another model than ddpm_jax has: "
            + "; ".join(broken)
        )


def hold_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Holds facts that diffusers' options give against those of our own config.

    Raises:
        ValueError: naming every one that differs.
    """
    differ = [
        f"{key} must be {_SHORT.repr(ours.get(key))}; got {_SHORT.repr(value)}"
        for key, value in theirs.items()
        if ours.get(key) != value
    ]
    if differ:
        raise ValueError(
            f"diffusers' options say another model than {PRIVATE} in unet/config.json: "
            f"{'; '.join(differ)} (remove {PRIVATE} to follow diffusers')"
        )


def can_say(field: str, value: Any, holds: bool, rule: str) -> None:
    """Holds a field of ours against what diffusers has.

    Raises:
        ValueError: naming the field.
    """
    if not holds:
        raise ValueError(
            f"diffusers has no such model: {field} must be {rule}; got {value}"
        )

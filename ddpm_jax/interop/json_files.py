"""JSON that others wrote: an object of sane size and depth, or an error of one line."""

import json
import pathlib
from typing import Any

from ddpm_jax.text import reason

_MOST_BYTES = 2**24  # an index of 10,000 tensors takes a million


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes values as JSON, making the folder that they lie in."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file, UTF-8 with or without a byte-order mark.

    Raises:
        ValueError: if it is not JSON, not an object, or too large or deep to be either.
        OSError: if it cannot be opened.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(
            f"{path} must be a JSON file of at most {_MOST_BYTES:,} bytes; got {size:,}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply for what it is") from error
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {reason(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(values).__name__}")
    return values

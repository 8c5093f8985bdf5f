"""Text, pictures and tables as HTML. All that a run brings along is escaped."""

import base64
import html
import sys
from collections.abc import Mapping
from typing import Any

from ddpm_jax.text import printable


def text(value: Any) -> str:
    """Anything as HTML: one line, escaped; also what is no Unicode."""
    line = printable(str(value)).encode(errors="backslashreplace").decode()
    return html.escape(line)


def image(data: bytes, alt: str, kind: str = "image/png") -> str:
    """A picture's bytes inside the page."""
    code = base64.b64encode(data).decode()
    return f'<img alt="{text(alt)}" src="data:{kind};base64,{code}">'


def figure(title: str, drawn: str, caption: str) -> str:
    """A drawing with a title and a caption, which are HTML but for the title."""
    return (
        f"<figure><h3>{text(title)}</h3>{drawn}"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def number(value: Any, digits: int = 5) -> str:
    """A figure in so many digits; a dash where there is none."""
    known = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return f"{value:.{digits}g}" if known else "–"


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by their paths: {"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def shown_value(value: Any) -> str:
    """A field's value for a person."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(shown_value, value)) or "none"
    if isinstance(value, bool) or value is None or value == "":
        return {True: "yes", False: "no", None: "none"}.get(value, "''")
    if type(value) is int:
        return f"{value:,}"
    return str(value)


def table(values: Mapping[str, Any]) -> str:
    """A row for each name."""
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(shown_value(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<div class="wide"><table class="fields">{rows}</table></div>'


def part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping of that name; an empty one where there is none."""
    value = record.get(name)
    return value if isinstance(value, dict) else {}

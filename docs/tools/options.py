"""Writes docs/config.md: every field of a config, from the comments beside it.

    python docs/tools/options.py            prints the page
    python docs/tools/options.py --write    writes it

A field's meaning is the comment after it, or the comments above it.
"""

import ast
import dataclasses
import inspect
import pathlib
import sys
import typing

from ddpm_jax.config import Config

PAGE = pathlib.Path(__file__).parents[1] / "config.md"
HEAD = """\
# Options

Every field of a config is an option of `train.py` and `ddpm-train`, and an argument of
a class of `ddpm_jax.config`: `--train.batch-size 64` is
`TrainConfig(batch_size=64)`. The defaults here are those of the classes; an experiment
has its own, which `ddpm-train --config NAME --help` shows. A switch is
`--data.flip` or `--data.no-flip`; several values stand one after the other:
`--network.multipliers 1 2 2`.

This page is written by `python docs/tools/options.py --write`.
"""


def main() -> None:
    """Prints the page, or writes it."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page(), end="")


def page() -> str:
    """The page, as Markdown."""
    return "\n".join([HEAD, *sections(Config)])


def sections(cls: type, path: str = "") -> list[str]:
    """A table for each section below a class of configs."""
    parts = []
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            name = f"{path}{item.name}"
            parts += [section(typing.cast(type, hint), name)]
            parts += sections(typing.cast(type, hint), f"{name}.")
    return parts


def section(cls: type, path: str) -> str:
    """The heading, the sentence and the table of one class."""
    comments = meanings(cls)
    rows = [
        f"| `--{path}.{item.name.replace('_', '-')}` | {values(hint)} "
        f"| {default(item)} | {cell(comments[item.name])} |"
        for item in dataclasses.fields(cls)
        if not dataclasses.is_dataclass(hint := typing.get_type_hints(cls)[item.name])
    ]
    what, *_ = (cls.__doc__ or "").partition("\n")
    table = ["| option | values | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {path}\n", f"{what}\n", *table, ""])


def meanings(cls: type) -> dict[str, str]:
    """The comment on every field of a class: after it, or on the lines above it."""
    lines, _ = inspect.getsourcelines(cls)
    (tree,) = ast.parse("".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert node.end_lineno is not None and node.end_col_offset is not None
            after = lines[node.end_lineno - 1][node.end_col_offset :].strip()
            found[node.target.id] = after.removeprefix("#").strip() or above(
                lines, node.lineno - 2
            )
    return found


def above(lines: list[str], last: int) -> str:
    """The comment that ends in that line."""
    parts: list[str] = []
    while lines[last].lstrip().startswith("#"):
        parts.insert(0, lines[last].strip().removeprefix("#").strip())
        last -= 1
    return " ".join(parts)


def values(hint: typing.Any) -> str:
    """What an option takes, as a cell."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    names = {int: "whole number", float: "number", str: "text", bool: "switch"}
    if hint in names:
        return names[hint]
    if hint is type(None):
        return "`None`"
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if inner[-1] is Ellipsis:
            return f"{values(inner[0])}s".replace("texts", "names")
        return f"{len(inner)} {values(inner[0])}s"
    return " or ".join(values(part) for part in inner)


def default(item: dataclasses.Field[typing.Any]) -> str:
    """The default of a field, as a cell."""
    value = item.default
    if value is True or value is False:
        return "on" if value else "off"
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`"
    if value == "":
        return "`''`"
    return f"`{value}`"


def cell(text: str) -> str:
    """A comment in a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("~", "\\~")


if __name__ == "__main__":
    main()

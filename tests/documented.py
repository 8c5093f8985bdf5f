"""The public names of the package with their docstrings, read without importing it."""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Name(NamedTuple):
    """A function, a class, or one of its methods."""

    path: str  # ddpm_jax.diffusion.schedules.Schedule.beta
    module: str  # ddpm_jax.diffusion.schedules
    node: ast.FunctionDef | ast.ClassDef
    owner: ast.ClassDef | None  # the class of a method
    file: pathlib.Path

    @property
    def docstring(self) -> str | None:
        """As `inspect.getdoc` has it."""
        return ast.get_docstring(self.node)

    @property
    def line(self) -> int:
        """Where the docstring begins, from 0."""
        return self.node.body[0].lineno - 1


@functools.cache
def module_files() -> dict[str, pathlib.Path]:
    """Every module of the package, by its name."""
    found = {}
    for file in sorted((ROOT / "ddpm_jax").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


@functools.cache
def parsed(module: str) -> ast.Module:
    """The source of a module, as a tree."""
    return ast.parse(module_files()[module].read_text())


def public_modules() -> list[str]:
    """All but the programs, whose options their --help tells."""
    return [x for x in module_files() if not re.search(r"\.(__main__|commands)\b", x)]


@functools.cache
def public_names() -> tuple[Name, ...]:
    """Every public function, class and method."""
    return tuple(name for module in public_modules() for name in _names(module))


def _names(module: str) -> Iterator[Name]:
    file = module_files()[module]
    for node in _defined(parsed(module).body):
        path = f"{module}.{node.name}"
        yield Name(path, module, node, None, file)
        if isinstance(node, ast.ClassDef):
            for method in _defined(node.body):
                if isinstance(method, ast.FunctionDef):
                    yield Name(f"{path}.{method.name}", module, method, node, file)


def public_values(module: str) -> Iterator[tuple[str, bool]]:
    """Every public constant and type of a module, and whether it is documented."""
    body = parsed(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield target.id, text


def _defined(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_") or node.name == "__call__":
                yield node


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """The method of this name that a class defines itself."""
    functions = (x for x in node.body if isinstance(x, ast.FunctionDef))
    return next((x for x in functions if x.name == name), None)

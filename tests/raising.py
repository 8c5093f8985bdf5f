"""Which errors a function raises: its own, its helpers' and those of its checks."""

import ast
import re
from collections.abc import Iterator

from documented import method, module_files, parsed

FILES = module_files()


def raised(
    module: str,
    node: ast.AST,
    owner: ast.AST | None = None,
    seen: frozenset[ast.AST] = frozenset(),
) -> set[str]:
    """The errors that the body raises, and private helpers and checks that it calls."""
    found: set[str] = set()
    for inner in _own(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call):
            found.add(_error(module, ast.unparse(inner.exc.func)))
        elif isinstance(inner, ast.Try):
            found |= _uncaught(module, inner, owner, seen)
        elif isinstance(inner, ast.Call):
            called = _called(module, inner.func, owner)
            if called is not None and called[1] not in seen:
                found |= raised(*called, seen | {called[1]})
    return found - {"", "AttributeError"}


def _error(module: str, name: str) -> str:
    """The class of an error that is raised: a class, or what a function makes."""
    made = _function(module, name, any_name=True)
    if made is None:
        return "" if name.startswith("type(") else name.split(".")[-1]
    return ast.unparse(made[1].returns or ast.Name(""))


def _uncaught(
    module: str, node: ast.Try, owner: ast.AST | None, seen: frozenset[ast.AST]
) -> set[str]:
    """What a `try` lets through, and its handlers raise."""
    caught = {
        each.id
        for handler in node.handlers
        for each in ast.walk(handler.type or ast.Name("Exception"))
        if isinstance(each, ast.Name)
    }
    within = raised(module, ast.Module(node.body, []), owner, seen)
    if caught & {"Exception", "BaseException"}:
        within = set()
    after = [*node.handlers, *node.orelse, *node.finalbody]
    return (within - caught) | raised(module, ast.Module(after, []), owner, seen)


def _called(
    module: str, function: ast.expr, owner: ast.AST | None
) -> tuple[str, ast.FunctionDef, ast.AST | None] | None:
    """The helper or the check that is called, where it is one."""
    if isinstance(function, ast.Name):
        found = _function(module, function.id)
        return None if found is None else (*found, None)
    of_self = isinstance(function, ast.Attribute) and (
        ast.unparse(function.value) == "self"
    )
    if of_self and isinstance(owner, ast.ClassDef):
        found = method(owner, function.attr)
        return None if found is None else (module, found, owner)
    return None


def _function(
    module: str, name: str, *, any_name: bool = False
) -> tuple[str, ast.FunctionDef] | None:
    """A helper or a check of this name, as a module knows it."""
    if not any_name and not re.match(r"_|check|refuse|(lookup|at|before)$", name):
        return None
    for node in parsed(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for each in node.names:
                if (each.asname or each.name) == name:
                    home = _home(module, node)
                    if home not in FILES:
                        return None
                    return _function(home, each.name, any_name=any_name)
    return None


def _home(module: str, node: ast.ImportFrom) -> str:
    """The module that a `from` imports from."""
    if not node.level:
        return node.module or ""
    package = module if FILES[module].name == "__init__.py" else _parent(module)
    for _ in range(node.level - 1):
        package = _parent(package)
    return f"{package}.{node.module}" if node.module else package


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when it is called: not what functions within it do later."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        yield child
        if not isinstance(child, ast.Try):
            yield from _own(child)

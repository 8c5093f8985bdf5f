"""Draws which part of the package imports which: docs/figures/imports.svg.

    python docs/tools/imports.py

A part imports only what stands below it. Where one is reached over another, no line is
drawn to it as well. Modules named __main__ stand on top of all and are left out.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "ddpm_jax"
PICTURE = ROOT / "docs" / "figures" / "imports.svg"
Graph = dict[str, set[str]]

WIDTH, LETTER, BOX, GAP, ROW, MARGIN, ASIDE = 1000, 7.4, 26, 14, 72, 14, 110
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #22262b; text-anchor: middle; }
rect { fill: #ffffff; stroke: #98a1ab; } .folder rect { stroke-width: 2; }
.pure rect { fill: #e3f0e6; } path { fill: none; stroke: #2f5fa8; opacity: 0.45; }
@media (prefers-color-scheme: dark) {
  text { fill: #e3e6e9; } rect { fill: #1c2024; stroke: #68707a; }
  .pure rect { fill: #1f3a28; } path { stroke: #7fb0f5; }
}
"""
PURE = {"diffusion", "networks"}  # that know nothing of the rest


def imported(tree: ast.AST) -> Iterator[str]:
    """The parts of the package that a module imports by name."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "ddpm_jax":
                names = [f"ddpm_jax.{alias.name}" for alias in node.names]
        for name in names:
            root, *rest = name.split(".")
            if root == "ddpm_jax" and rest:
                yield rest[0]


def read() -> Graph:
    """What each part imports of the others."""
    graph: Graph = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__main__" and parts != ("__init__",):
            found = graph.setdefault(parts[0], set())
            found |= set(imported(ast.parse(path.read_text()))) - {parts[0]}
    return {part: found & graph.keys() for part, found in graph.items()}


def below(graph: Graph, part: str) -> set[str]:
    """All that a part imports, also by way of others."""
    found = set(graph[part])
    for other in graph[part]:
        found |= below(graph, other)
    return found


def direct(graph: Graph) -> Graph:
    """Without imports of what another import brings along."""
    return {
        part: {x for x in uses if not any(x in below(graph, y) for y in uses - {x})}
        for part, uses in graph.items()
    }


def rows(graph: Graph) -> list[list[str]]:
    """The parts from the bottom up: each one row above the highest that it imports."""

    def height(part: str) -> int:
        return 1 + max(map(height, graph[part]), default=-1)

    found: list[list[str]] = [[] for _ in range(1 + max(map(height, graph)))]
    for part in sorted(graph):
        found[height(part)].append(part)
    return found


def placed(graph: Graph) -> dict[str, tuple[float, float]]:
    """The middle of each part's box."""
    levels, lines = rows(graph), direct(graph)
    users: Graph = {x: {y for y in graph if x in lines[y]} for x in graph}
    order = {part: float(i) for level in levels for i, part in enumerate(level)}
    spread = lambda level: {p: (i + 1) / (len(level) + 1) for i, p in enumerate(level)}  # noqa: E731
    for _ in range(30):  # each towards the middle of what it is joined to
        for level in [*levels, *reversed(levels)]:
            at = {p: x for row in levels for p, x in spread(row).items()}
            near = {p: [at[x] for x in lines[p] | users[p]] or [at[p]] for p in level}
            order |= {p: sum(xs) / len(xs) for p, xs in near.items()}
            level.sort(key=lambda p: (order[p], p))
    places = {}
    for i, level in enumerate(levels):
        widths = [box(p) for p in level]
        room = (WIDTH - 2 * MARGIN - sum(widths)) / (len(level) + 1)
        assert room >= GAP / 2, f"a row is too wide: {level}"
        x = MARGIN + room
        if len(level) == 1:  # or lines would run behind a column of boxes
            x += ASIDE * (-1) ** i
        for part, width in zip(level, widths, strict=True):
            places[part] = (
                x + width / 2,
                MARGIN + BOX / 2 + (len(levels) - 1 - i) * ROW,
            )
            x += width + room
    return places


def box(part: str) -> float:
    """How wide a part's box is."""
    return LETTER * len(part) + 16


def draw(graph: Graph) -> str:
    """The picture as SVG."""
    places = placed(graph)
    height = max(y for _, y in places.values()) + BOX / 2 + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'role="img"><title>What imports what in ddpm_jax</title><style>{STYLE}</style>'
    ]
    for part, uses in direct(graph).items():
        x0, y0 = places[part]
        for other in sorted(uses):
            x1, y1 = places[other]
            top, bottom = y0 + BOX / 2, y1 - BOX / 2
            bend = (bottom - top) * 0.5
            parts.append(
                f'<path d="M{x0:.0f} {top:.0f}C{x0:.0f} {top + bend:.0f} {x1:.0f} '
                f'{bottom - bend:.0f} {x1:.0f} {bottom:.0f}"/>'
            )
    for part, (x, y) in sorted(places.items()):
        kind = ["folder"] * (PACKAGE / part).is_dir() + ["pure"] * (part in PURE)
        parts.append(
            f'<g class="{" ".join(kind)}"><rect x="{x - box(part) / 2:.1f}" '
            f'y="{y - BOX / 2:.1f}" width="{box(part):.1f}" height="{BOX}" rx="5"/>'
            f'<text x="{x:.1f}" y="{y + 4.5:.1f}">{part}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(read()))
    print(f"wrote {PICTURE.relative_to(ROOT)}", file=sys.stderr)

"""What MkDocs does not do for this site by itself (`hooks` in mkdocs.yml).

- Pages from outside `docs/`: CONTRIBUTING.md, CHANGELOG.md, the benchmarks' README, and
  the notebooks with their stored outputs.
- Links that leave `docs/`, as a code host follows them, lead to those pages.
- Equations between dollars become MathML, which browsers draw without a script.
"""

import html
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any

import latex2mathml.converter
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import AnchorLink
from nbconvert import MarkdownExporter

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Pages that lie outside of docs/, by their place on the site.
OUTSIDE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
} | {
    f"notebooks/{path.stem}.md": f"notebooks/{path.name}"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
PLACES = {source: page for page, source in OUTSIDE.items()} | {"README.md": "index.md"}

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1[ ]*$", re.M | re.S)
CODE = re.compile("<code>[^<]*</code>")
OPTION = re.compile(r"--[a-z][\w.-]*")
WHOLE = r'<span class="option">\g<0></span>'  # on one line, not broken after its --
EQUATION = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the notebooks into the navigation, where it names their folder."""
    pages = sorted(place for place in OUTSIDE if place.startswith("notebooks/"))
    for section in config.nav or []:
        for entries in section.values():
            if isinstance(entries, list) and "notebooks" in entries:
                at = entries.index("notebooks")
                entries[at : at + 1] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside."""
    for place, source in OUTSIDE.items():
        path = ROOT / source
        if path.suffix == ".ipynb":
            text, pictures = notebook_page(path)
            for name, data in pictures.items():
                uri = f"notebooks/{name}"
                files.append(File.generated(config, uri, content=data))
        else:
            text = path.read_text()
        files.append(File.generated(config, place, content=text))
    return files


def notebook_page(path: pathlib.Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with its stored outputs, and its pictures by name."""
    notebook = nbformat.read(path, as_version=4)
    resources: dict[str, Any] = {"output_files_dir": path.stem}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    pictures = {name: x for name, x in made["outputs"].items() if name in text}
    return text, pictures


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Leads links that leave docs/ to their page; of another file the name is left."""
    place = page.file.src_uri
    if place.startswith("reference/"):  # who looks for a name wants this page first
        page.meta["search"] = {"boost": 2}
    source = OUTSIDE.get(place, f"docs/{place}")
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [relinked(markdown[end : fence.start()], source, place), fence[0]]
        end = fence.end()
    return "".join([*parts, relinked(markdown[end:], source, place)])


def relinked(text: str, source: str, place: str) -> str:
    """The text of the file `source` with links as they are on the page `place`."""

    def lead(link: re.Match[str]) -> str:
        mark, shown, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if source.endswith(".ipynb") and mark:
            return link[0]  # a picture of its outputs
        if path.startswith("docs/"):
            there = path.removeprefix("docs/")
        elif path in PLACES:
            there = PLACES[path]
        elif (ROOT / path).exists():
            return shown
        else:
            raise PluginError(f"{source}: the link {target} leads to no file")
        there = os.path.relpath(there, posixpath.dirname(place) or ".")
        return f"{mark}[{shown}]({there}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(lead, text)


def on_page_content(
    content: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Makes MathML of equations, and options whole; keeps code out of the search."""

    def draw(found: re.Match[str]) -> str:
        tag, kind, latex = found.groups()
        block = "block" if kind == "[" else "inline"
        drawn = mathml(html.unescape(latex), block, page.file.src_uri)
        return f'<{tag} class="equation">{drawn}</{tag}>' if block == "block" else drawn

    content = EQUATION.sub(draw, content)
    content = CODE.sub(lambda code: OPTION.sub(WHOLE, code[0]), content)
    for item in headings(page.toc):
        item.title = re.sub(
            r"\\\((.*?)\\\)",
            lambda found: mathml(html.unescape(found[1]), "inline", page.file.src_uri),
            item.title,
        )
    return content.replace(
        '<details class="mkdocstrings-source">',
        '<details class="mkdocstrings-source" data-search-exclude>',
    )


def headings(items: Iterable[AnchorLink]) -> Iterator[AnchorLink]:
    """All entries of a page's table of contents."""
    for item in items:
        yield item
        yield from headings(item.children)


def mathml(latex: str, display: str, place: str) -> str:
    """An equation in MathML.

    Raises:
        PluginError: where a command of it is not known, or it has none to show.
    """
    try:
        drawn = latex2mathml.converter.convert(latex.strip(), display=display)
    except Exception as error:
        raise PluginError(f"{place}: {latex!r} is no equation: {error!r}") from error
    unknown = re.search(r">\s*(\\[A-Za-z]+)", html.unescape(drawn))
    if unknown:
        raise PluginError(f"{place}: {unknown[1]} of {latex!r} is not known")
    return drawn

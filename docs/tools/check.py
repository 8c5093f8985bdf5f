"""Holds a built site to what it promises: python docs/tools/check.py SITE

- Every link within it, and every anchor, leads somewhere; so do those of README.md and
  CONTRIBUTING.md as a code host shows them. Links that lead elsewhere are well-formed.
- No page loads anything from elsewhere.
- Every public name of the package is in the reference, and the search finds it.
"""

import ast
import html.parser
import json
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ddpm_jax"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src"}
LOADED |= {"source": "src", "video": "src", "audio": "src"}


class Page(html.parser.HTMLParser):
    """The anchors of a page, where it leads, and what it loads."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what one tag has."""
        found = dict(attrs)
        for name in ("id", "name"):
            if found.get(name):
                self.anchors.add(found[name] or "")
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if tag in LOADED and found.get(LOADED[tag]):
            if not (tag == "link" and found.get("rel") in ("canonical", "edit")):
                self.loads.append(found[LOADED[tag]] or "")


def main(site: pathlib.Path) -> None:
    """Prints the faults and the counts; exit code 1 if there are faults."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    faults = [*broken_links(pages, site), *loads(pages, site)]
    names = dict(public_names())
    faults += [*unfound(names, pages, site), *broken_markdown()]
    print(*faults, sep="\n", end="\n" * bool(faults))
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {links} links, {len(names)} public names in the search")
    sys.exit(bool(faults))


def broken_links(pages: dict[pathlib.Path, Page], site: pathlib.Path) -> Iterator[str]:
    """Yields a line for each link that leads nowhere."""
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                if malformed(parts):
                    yield f"{path.relative_to(site)}: malformed: {link}"
                continue
            name = urllib.parse.unquote(parts.path)
            target = (path.parent / name).resolve() if name else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file():
                yield f"{path.relative_to(site)}: no file for {link}"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(site)}: no anchor for {link}"


def malformed(parts: urllib.parse.SplitResult) -> bool:
    """Whether an address could not be one of the web, or of a person."""
    if parts.scheme == "mailto":
        return "@" not in parts.path
    return parts.scheme != "https" or "." not in parts.netloc


def loads(pages: dict[pathlib.Path, Page], site: pathlib.Path) -> Iterator[str]:
    """Yields a line for each thing that a page loads and the site does not hold."""
    for path, page in pages.items():
        for link in page.loads:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme == "data":
                continue
            here = site if parts.path.startswith("/") else path.parent
            target = here / urllib.parse.unquote(parts.path).lstrip("/")
            if parts.netloc or not target.exists():
                yield f"{path.relative_to(site)}: loads {link}"
    for sheet in site.rglob("*.css"):
        if found := re.search(r"url\([\"']?(?:https?:)?//[^)]*", sheet.read_text()):
            yield f"{sheet.relative_to(site)}: loads {found[0]}"


def public_names() -> Iterator[tuple[str, str]]:
    """Yields (path in the package, name) of functions, classes, methods, constants."""
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ("ddpm_jax", *file.relative_to(PACKAGE).with_suffix("").parts)
        if any(part.startswith("_") for part in parts[:-1]) or "configs" in parts:
            continue
        if parts[-1] == "__init__":
            parts = parts[:-1]
        elif parts[-1].startswith("_"):
            continue
        yield from defined(ast.parse(file.read_text()).body, ".".join(parts))


def defined(body: list[ast.stmt], where: str) -> Iterator[tuple[str, str]]:
    """Yields the public names that these statements define, those of classes too."""
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        elif isinstance(node, ast.Assign):
            names = [x.id for x in node.targets if isinstance(x, ast.Name)]
        for name in names:
            if not name.startswith("_"):
                yield f"{where}.{name}", name
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from defined(node.body, f"{where}.{node.name}")


def unfound(
    names: dict[str, str], pages: dict[pathlib.Path, Page], site: pathlib.Path
) -> Iterator[str]:
    """Yields a line for each public name that the reference or the search lacks."""
    anchors = {
        anchor
        for path, page in pages.items()
        if "reference" in path.parts
        for anchor in page.anchors
    }
    index = json.loads((site / "search" / "search_index.json").read_text())
    separator = re.compile(index["config"]["separator"])
    found: dict[str, set[str]] = {}
    for entry in index["docs"]:
        _, _, anchor = entry["location"].partition("#")
        title = re.sub("<[^>]*>", " ", entry["title"])
        found.setdefault(anchor, set()).update(separator.split(title))
    for path, name in names.items():
        if path not in anchors:
            yield f"{path} is on no page of the reference"
        elif name not in found.get(path, ()):
            yield f"{path} is not found by the search"


def broken_markdown() -> Iterator[str]:
    """Yields a line for each link of README.md and its like that leads nowhere."""
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += [ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
    for file in files:
        text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^()\s]+)\)", text):
            parts = urllib.parse.urlsplit(link)
            if parts.scheme:
                if malformed(parts):
                    yield f"{file.relative_to(ROOT)}: malformed: {link}"
                continue
            target = file.parent / parts.path if parts.path else file
            if not target.exists():
                yield f"{file.relative_to(ROOT)}: no file for {link}"
            elif parts.fragment and parts.fragment not in headings(target):
                yield f"{file.relative_to(ROOT)}: no anchor for {link}"


def headings(file: pathlib.Path) -> set[str]:
    """The anchors that a code host gives the headings of a Markdown file."""
    text = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)
    found = re.findall(r"^#+ +(.+?) *$", text, re.M)
    plain = (re.sub(r"[^\w\- ]", "", x.lower()) for x in found)
    return {x.replace(" ", "-") for x in plain}


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())

"""Puts into every notebook what it needs elsewhere: an install cell, and a badge.

    python notebooks/elsewhere.py

The badge opens the notebook in Colab, from the project's repository on GitHub: that of
`[project.urls]` in pyproject.toml, as Repository. While none is given there, there is no
badge. What was put in before is replaced.
"""

import copy
import pathlib
import re
import tomllib

import nbformat

HERE = pathlib.Path(__file__).parent
PROJECT = HERE.parent / "pyproject.toml"
INSTALL = """\
import importlib.util

if importlib.util.find_spec("ddpm_jax") is None:
    %pip install -q "ddpm_jax[plots]"\
"""
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
BADGE = re.compile(r"\[!\[Open in Colab\]\(.*?\)\]\(.*?\)\n\n")


def main() -> None:
    """Rewrites the notebooks that lack it."""
    url = repository()
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        prepared = prepare(notebook, path.name, url)
        if prepared != notebook:
            nbformat.write(prepared, path)
            print(path.name)


def repository() -> str | None:
    """The address of the repository, if the project has one."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    return project.get("urls", {}).get("Repository")


def badge(name: str, url: str | None) -> str:
    """What opens the notebook of that name in Colab; "" where it is not on GitHub."""
    place = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?", url or "")
    if place is None:
        return ""
    there = f"https://colab.research.google.com/github/{place.group(1)}"
    return f"[![Open in Colab]({PICTURE})]({there}/blob/main/notebooks/{name})\n\n"


def prepare(
    notebook: nbformat.NotebookNode, name: str, url: str | None
) -> nbformat.NotebookNode:
    """The notebook with its badge over the title, and the install cell under it."""
    prepared = copy.deepcopy(notebook)
    title, *cells = prepared.cells
    title.source = badge(name, url) + BADGE.sub("", title.source)
    found = [cell for cell in cells if cell.id == "install"]
    install = found[0] if found else nbformat.v4.new_code_cell(id="install")
    install.source = INSTALL
    prepared.cells = [title, install, *(cell for cell in cells if cell.id != "install")]
    if not found and any(cell.get("execution_count") for cell in cells):
        install.execution_count = 1  # it has run first, and left nothing
        for cell in cells:
            if cell.get("execution_count"):
                cell.execution_count += 1
    return prepared


if __name__ == "__main__":
    main()

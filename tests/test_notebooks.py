"""Notebooks can be opened elsewhere, and are stored as they ran."""

import importlib.util
import itertools
import pathlib
import re

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOMEWHERE = "https://github.com/someone/ddpm_jax"


@pytest.fixture(scope="module")
def elsewhere():
    """notebooks/elsewhere.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("elsewhere", FOLDER / "elsewhere.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(source, present, monkeypatch):
    """The magics that a cell calls, where the package is there or not."""
    called = []

    class Shell:
        def run_line_magic(self, name, line):
            called.append((name, line))

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if present else None
    )
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    return called


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_what_opens_it_elsewhere(path, elsewhere):
    notebook = nbformat.read(path, as_version=4)
    url = elsewhere.repository()
    assert elsewhere.prepare(notebook, path.name, url) == notebook, (
        "run python notebooks/elsewhere.py"
    )
    title, install, *cells = notebook.cells
    assert title.source.startswith(elsewhere.badge(path.name, url) + "# ")
    assert install.source == elsewhere.INSTALL and not install.outputs
    # Nothing of the package is imported before it can be installed.
    assert "ddpm_jax" in "".join(cell.source for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_as_it_ran(path):
    cells = nbformat.read(path, as_version=4).cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [x for cell in cells for x in cell.get("outputs", ())]
    assert outputs and all(x.output_type != "error" for x in outputs)
    assert path.stat().st_size < 200_000


def test_it_installs_where_the_package_is_missing_alone(elsewhere, monkeypatch):
    assert run(elsewhere.INSTALL, True, monkeypatch) == []
    missing = run(elsewhere.INSTALL, False, monkeypatch)
    assert missing == [("pip", 'install -q "ddpm_jax[plots]"')]


def test_a_badge_leads_to_the_repository_or_there_is_none(elsewhere):
    place = "colab.research.google.com/github/someone/ddpm_jax/blob/main/notebooks/"
    assert f"(https://{place}x.ipynb)" in elsewhere.badge("x.ipynb", SOMEWHERE)
    assert elsewhere.badge("x.ipynb", f"{SOMEWHERE}.git") == elsewhere.badge(
        "x.ipynb", SOMEWHERE
    )
    for other in (None, "https://example.org/someone/ddpm_jax"):
        assert elsewhere.badge("x.ipynb", other) == ""


def test_a_badge_is_put_in_once_and_taken_out_again(elsewhere):
    path = NOTEBOOKS[0]
    plain = nbformat.read(path, as_version=4)
    plain = elsewhere.prepare(plain, path.name, None)
    once = elsewhere.prepare(plain, path.name, SOMEWHERE)
    assert once.cells[0].source.count("colab-badge.svg") == 1
    assert elsewhere.prepare(once, path.name, SOMEWHERE) == once
    assert elsewhere.prepare(once, path.name, None) == plain


@pytest.mark.parametrize("page", ["README.md", "docs/first_hour.md"])
def test_every_notebook_is_listed_where_people_look(page):
    text = (NOTEBOOKS[0].parent.parent / page).read_text()
    assert [path.name for path in NOTEBOOKS if f"/{path.name})" not in text] == []


def test_a_notebook_names_the_one_that_follows():
    for path, following in itertools.pairwise(NOTEBOOKS):
        last = nbformat.read(path, as_version=4).cells[-1].source
        if named := re.findall(r"Next: `(\w+\.ipynb)`", last):
            assert named == [following.name]

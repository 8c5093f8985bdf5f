"""The picture of imports in docs/architecture.md is the one that its command draws."""

import pathlib
import re
import runpy

from test_imports import MAY_IMPORT

ROOT = pathlib.Path(__file__).parent.parent
TOOL = runpy.run_path(str(ROOT / "docs" / "tools" / "imports.py"))
GRAPH = TOOL["read"]()


def test_the_picture_is_up_to_date():
    drawn = TOOL["draw"](GRAPH)
    kept = TOOL["PICTURE"].read_text()
    assert kept == drawn, "imports have changed: python docs/tools/imports.py"


def test_it_shows_every_part_and_no_import_that_is_not_allowed():
    assert set(GRAPH) == set(MAY_IMPORT) - {"__init__"}
    shown = re.findall(r"<text [^>]*>(\w+)</text>", TOOL["PICTURE"].read_text())
    assert sorted(shown) == sorted(GRAPH)
    for part, uses in GRAPH.items():
        assert uses <= MAY_IMPORT[part], part


def test_every_import_goes_down_and_none_is_lost():
    places, lines = TOOL["placed"](GRAPH), TOOL["direct"](GRAPH)
    for part, uses in GRAPH.items():
        assert all(places[other][1] > places[part][1] for other in uses)
        assert TOOL["below"](GRAPH, part) == TOOL["below"](lines, part)


def test_lines_that_others_make_plain_are_left_out():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert TOOL["direct"](graph) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert TOOL["rows"](graph) == [["c"], ["b"], ["a"]]


def test_the_files_that_the_page_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`", page)
    files = {str(path) for path in ROOT.rglob("ddpm_jax/**/*.py")}
    files.add(str(ROOT / "tests" / "test_imports.py"))
    assert len(named) > 15
    for name in named:
        assert any(path.endswith(f"/{name}") for path in files), name

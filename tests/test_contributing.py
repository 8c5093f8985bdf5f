"""What CONTRIBUTING.md, CHANGELOG.md, CITATION.cff and the hooks say is so."""

import pathlib
import re
import tomllib

import pytest
import yaml
from test_imports import MAY_IMPORT, SCRIPTS

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()


def rows(heading):
    """The cells of the tables under a heading of the guide, without their heads."""
    section = GUIDE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [x.strip("|").split("|") for x in section.splitlines() if x[:1] == "|"]
    return [[cell.strip() for cell in cells] for cells in lines]


def test_the_layout_says_what_each_part_may_import():
    said = {cells[0].strip("`"): cells[2] for cells in rows("Layout") if cells[2:]}
    del said["part"], said["---"]
    for name, allowed in MAY_IMPORT.items():
        if name == "__init__":
            continue
        folder = (ROOT / "ddpm_jax" / name).is_dir()
        names = said.pop(f"{name}/" if folder else f"{name}.py")
        assert names == (", ".join(sorted(allowed)) or "nothing"), name
    assert not said
    *most, last = sorted(SCRIPTS)
    on_top = f"it may also import {', '.join(most)} and {last}."
    assert on_top in " ".join(GUIDE.split())


def test_every_part_of_the_package_has_its_row():
    package = ROOT / "ddpm_jax"
    parts = {path.stem for path in package.glob("*.py")}
    parts |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert parts == set(MAY_IMPORT)


def test_the_files_that_the_guide_names_are_there():
    named = re.findall(r"`([\w.]*/[\w./]*|[\w]+\.(?:py|md|toml|cff))`", GUIDE)
    parts = {f"{x}.py" for x in MAY_IMPORT} | {f"{x}/" for x in MAY_IMPORT}
    paths = {x for x in named if x not in parts}
    assert len(paths) > 25
    made = {"ddpm_jax/configs", ".pytest_cache/jax"}
    assert [x for x in sorted(paths - made) if not (ROOT / x).exists()] == []


def test_the_places_of_additions_have_the_names():
    """`NAMES` in, or of, `ddpm_jax/file.py` stand there."""
    table = "\n".join(" | ".join(cells) for cells in rows("Where things are added"))
    found = re.findall(
        r"`(\w+)`(?: and `(\w+)`)? (?:in|of) `(ddpm_jax/\S+\.py)`", table
    )
    assert len(found) >= 8
    for *names, path in found:
        text = (ROOT / path).read_text()
        for name in filter(None, names):
            assert re.search(rf"\b{name}\b", text), (name, path)
    for thing in ("sampler", "schedule", "data source", "metric", "network"):
        assert f"a {thing} | " in table
    assert "an objective | " in table


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    heads = re.findall(
        r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert heads[0][0] == PROJECT["version"]
    for _, date in heads:
        assert re.fullmatch(r"Unreleased|\d{4}-\d\d-\d\d", date)


@pytest.mark.parametrize("field", ["cff-version", "message", "title", "authors"])
def test_a_citation_has_what_its_format_needs(field):
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())[field]


def test_the_hooks_are_what_ci_lints_with():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    stage = (ROOT / ".ci" / "run").read_text().split('stage "lint and types"\n')[1]
    lines = stage.split("\n}\n")[0].splitlines()
    assert entries == [line.strip() for line in lines]

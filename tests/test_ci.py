"""`.ci/run` by stages, and the workflow that runs each on a machine of its own."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
RUN = ROOT / ".ci" / "run"
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def ci(*arguments):
    return subprocess.run([RUN, *arguments], capture_output=True, text=True)


def test_every_stage_is_listed_and_has_a_title():
    listed = ci("--list").stdout.split()
    parts = re.findall(r"^(\w+)\(\) \{\n    stage \"", RUN.read_text(), re.M)
    assert listed == parts and len(set(listed)) == len(listed) >= 10


def test_stages_run_in_the_order_asked_and_stop_where_one_fails(tmp_path):
    """The real script, with stages that only tell their names."""
    text = re.sub(
        r"(?ms)^(\w+)\(\) \{\n    stage .*?^\}$", r"\1() { echo \1; }", RUN.read_text()
    )
    text = text.replace(
        "\nlint() { echo lint; }", "\nlint() { echo lint; false; echo on; }"
    )
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_text(text)

    def told(*names):
        done = subprocess.run(["bash", script, *names], capture_output=True, text=True)
        return done.returncode, done.stdout.split(), done.stderr

    assert told("wheel", "smoke") == (0, ["wheel", "smoke"], "")
    assert told() == (1, ["tests", "processes", "lint"], "")
    code, out, error = told("wheel", "none")
    assert code == 2 and out == [] and error.endswith("; got none\n")


def test_the_workflow_runs_each_stage():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    (command,) = (x["run"] for x in jobs["list"]["steps"] if "run" in x)
    if shutil.which("jq"):
        output = re.search(r"stages=\$\((.*)\)\"", command)[1]
        done = subprocess.run(
            ["bash", "-c", output], capture_output=True, text=True, cwd=ROOT
        )
        assert yaml.safe_load(done.stdout) == ci("--list").stdout.split()
    stage = jobs["stage"]
    matrix = stage["strategy"]["matrix"]["stage"]
    assert matrix == "${{ fromJSON(needs.list.outputs.stages) }}"
    commands = [x["run"] for x in stage["steps"] if "run" in x]
    assert commands[-1] == ".ci/run ${{ matrix.stage }}"
    wanted = re.search(
        r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text()
    )[1]
    (pythons,) = (x["with"]["python-version"] for x in stage["steps"] if "with" in x)
    assert pythons.split()[-1] == wanted


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_a_form(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        return
    assert form["name"] and form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) >= 3
    assert all(part["attributes"]["label"] for part in form["body"])

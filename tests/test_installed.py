"""What an installation offers by name: commands, experiments, the version.

`.ci/wheel` builds a wheel, installs it where nothing else is, and uses them.
"""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

import ddpm_jax
from ddpm_jax import experiments
from ddpm_jax.command import parse_train
from ddpm_jax.experiments import read_config

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def in_a_new_process(code, cwd=ROOT, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
    )


def start_each(argument, tmp_path):
    """stdout and stderr of every command, started as pip's scripts start it.

    All in one process, where the first sets the level of XLA's log before JAX reads it.
    """
    code = (
        "import os, sys\n"
        "from importlib.metadata import EntryPoint\n"
        "os.environ.pop('TF_CPP_MIN_LOG_LEVEL', None)\n"
        f"for name, value in {COMMANDS}.items():\n"
        f"    sys.argv = ['/somewhere/bin/' + name, '{argument}']\n"
        "    program = EntryPoint(name, value, 'console_scripts').load()\n"
        "    assert name != 'ddpm-train' or 'jax' not in sys.modules\n"
        "    try:\n"
        "        program()\n"
        "    except SystemExit as end:\n"
        "        print('exit', end.code, os.environ['TF_CPP_MIN_LOG_LEVEL'])\n"
        "    print(chr(12))\n"
        "    print(chr(12), file=sys.stderr)\n"
    )
    done = in_a_new_process(code, cwd=tmp_path, COLUMNS="300")
    assert done.returncode == 0, done.stderr
    texts = (text.split("\f\n")[:-1] for text in (done.stdout, done.stderr))
    return dict(zip(COMMANDS, zip(*texts, strict=True), strict=True))


@pytest.mark.processes
def test_a_wrong_option_of_any_command_is_one_line(tmp_path):
    for said, errors in start_each("--helpp", tmp_path).values():
        assert said == "exit 2 3\n"
        assert errors.startswith("error: ") and errors.count("\n") == 1


@pytest.mark.processes
def test_each_command_is_the_program_of_its_name(tmp_path):
    said = start_each("--help", tmp_path)
    told = {
        "ddpm-train": ("Trains a diffusion model", "cifar10_improved", "--train.seed"),
        "ddpm-sample": ("Draws images from the weights of a run", "--gif"),
        "ddpm-evaluate": ("Measures samples against real images", "--protocol"),
        "ddpm-report": ("Writes one HTML file of all that a workdir holds", "--grids"),
        "ddpm-import": ("out of published weights", "the workdir to make"),
        "ddpm-export": ("Writes the weights of a run", "--format"),
    }
    assert set(said) == set(told)
    for name, texts in told.items():
        text, errors = said[name]
        assert text.startswith(f"usage: {name} [-h]") and not errors
        assert text.endswith("exit 0 3\n") and "{import,export}" not in text
        for part in texts:
            assert part in text, (name, part)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("train.py", "error: argument --config: expected one argument\n"),
        ("sample.py", "error: Missing from sample.py: --workdir PATH\n"),
    ],
)
def test_the_scripts_of_a_checkout_are_the_same_programs(script, line, tmp_path):
    arguments = ["--config"] if script == "train.py" else []
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr == line


def test_shipped_experiments_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = sorted((ROOT / "configs").glob("*.py"))
    assert experiments.shipped() == {path.stem: path for path in files}
    for path in files:
        assert read_config(path.stem) == read_config(path) == read_config(str(path))
    parsed = parse_train(["--config", "cifar10", "--train.batch-size", "8"])
    assert parsed.workdir == pathlib.Path("runs/cifar10")
    assert parsed.config.data.name == "cifar10"
    assert parsed.config.train.batch_size == 8
    assert parse_train([]).config == read_config("digits")
    assert parse_train([]).workdir == pathlib.Path("runs/digits")


def test_a_file_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").write_text(
        "import dataclasses\n"
        "from ddpm_jax.experiments import read_config\n"
        "def get_config():\n"
        "    base = read_config('smoke')\n"
        "    train = dataclasses.replace(base.train, num_steps=7)\n"
        "    return dataclasses.replace(base, train=train)\n"
    )
    assert read_config("smoke").train.num_steps == 30
    for file in ("./smoke", str(tmp_path / "smoke"), pathlib.Path("smoke")):
        assert read_config(file).train.num_steps == 7
    assert parse_train(["--config", "./smoke"]).config.train.num_steps == 7


@pytest.mark.parametrize("name", ["cifar", "cifar10.py", "", "configs/none.py"])
def test_what_is_neither_is_refused_with_the_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ", ".join(sorted(experiments.shipped()))
    with pytest.raises(ValueError, match=f"be one of {names}; got {name}$") as error:
        parse_train(["--config", name])
    assert "\n" not in str(error.value)


def test_a_wheel_has_them_inside_the_package(tmp_path, monkeypatch):
    """What lies beside it among the installed packages is somebody else's."""
    package = tmp_path / "site-packages" / "ddpm_jax"
    for folder in (package / "configs", package.parent / "configs"):
        folder.mkdir(parents=True)
        (folder / f"{folder.parent.name}.py").touch()
    monkeypatch.setattr(experiments, "__file__", str(package / "experiments.py"))
    assert experiments.shipped() == {"ddpm_jax": package / "configs" / "ddpm_jax.py"}


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    assert ddpm_jax.__version__ == importlib.metadata.version("ddpm_jax")
    assert "__version__" in dir(ddpm_jax)

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert ddpm_jax.__version__ == "unknown"


def test_importing_the_package_imports_nothing_else():
    code = "import sys, ddpm_jax; print('jax' in sys.modules, 'email' in sys.modules)"
    assert in_a_new_process(code).stdout == "False False\n"

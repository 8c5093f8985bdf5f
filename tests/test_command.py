"""What a command line is refused for, in one line, and where a command runs."""

import os
import pathlib
import pwd
import subprocess
import sys
import types

import jax
import pytest
from toy import SMALL

from ddpm_jax import command
from ddpm_jax.evaluation.likelihood import __main__ as likelihood
from ddpm_jax.figures import __main__ as figures
from ddpm_jax.files import enclosing_run
from ddpm_jax.interop import __main__ as interop

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = ROOT / "configs" / "smoke.py"


def train(*arguments):
    return command.parse_train(list(arguments), SMOKE)


def evaluate(*arguments):
    return command.parse(likelihood.Options, args=arguments, prog="likelihood")


def draw(*arguments):
    return command.parse(figures.Options, args=arguments, prog="figures")


def port(*arguments):
    interop.main(list(arguments))


@pytest.mark.parametrize(
    ("read", "arguments", "line"),
    [
        (
            train,
            ["--train.batch-sise", "3"],
            "Unrecognized options: --train.batch-sise, 3; "
            "Perhaps you meant: --train.batch-size INT",
        ),
        (train, ["--network.dropout", "1.5"], "network.dropout must be in [0, 1); got"),
        (train, ["--train.batch-size", "a\nb"], "--train.batch-size: invalid literal"),
        (train, ["--train.batch-size"], "Missing value for argument '--train.batch-s"),
        (
            train,
            ["--diffusion.predict", "x" * 300],
            f"invalid choice '{'x' * 300}' for",
        ),
        (
            train,
            ["--data.resize", "True"],
            "Unrecognized options: True (a switch takes no value: --data.resize for "
            "yes, --data.no-resize for no)",
        ),
        (train, ["--data.flip=false"], "Unrecognized options: false (a switch"),
        (evaluate, [], "Missing from likelihood: --workdir PATH"),
        (
            evaluate,
            ["--workdir", "a", "--num", "x"],
            "--num: no type matching {None}|INT could be instantiated from ['x'].\n",
        ),
        (evaluate, ["--workdir="], "--workdir: a path must have a name; got ''"),
        (
            evaluate,
            ["--workdir", "a", "--batch-size", "0"],
            "--batch-size must be at l",
        ),
        (draw, ["all", "more"], "Unrecognized options: more"),
        (port, ["imprt"], "Unrecognized options: imprt; Available subcommands: import"),
        (port, ["export", "a"], "Missing from python -m ddpm_jax.interop export: PATH"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # whose boxes differ
def test_an_error_of_usage_is_one_line(
    read, arguments, line, encoding, capsys, monkeypatch
):
    columns = os.environ.get("COLUMNS")
    stdout = sys.stdout
    fake = types.SimpleNamespace(encoding=encoding, write=stdout.write, isatty=bool)
    monkeypatch.setattr(sys, "stdout", fake)
    with pytest.raises(SystemExit) as error:
        read(*arguments)
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1
    assert "helptext" not in said
    assert os.environ.get("COLUMNS") == columns


@pytest.mark.parametrize(
    ("arguments", "remat"),
    [
        ([], "none"),
        (["--network.remat", "dots"], "dots"),
        (["--network.remat=blocks", "--data.flip"], "blocks"),
        (["--network.remat"], "blocks"),
        (["--network.remat", "--train.seed", "1"], "blocks"),
        (["--network.no-remat"], "none"),
    ],
)
def test_remat_is_a_name_and_was_a_switch(arguments, remat):
    assert train(*arguments).config.network.remat == remat


def test_what_the_unet_cannot_be_is_listed_with_all_else():
    line = r"divisible by 2\^4, .*; got 8; sample\.steps must be in 1\.\.20; got 9999"
    with pytest.raises(ValueError, match=line):
        train(*"--network.multipliers 1 2 2 2 2 --sample.steps 9999".split())


def test_help_is_as_wide_as_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as error:
        train("--help")
    assert error.value.code == 0
    said = capsys.readouterr().out
    options = [line for line in said.splitlines() if " --train." in line]
    assert options and max(map(len, options)) <= 60


@pytest.mark.parametrize("arguments", [["--workdir"], ["--config"]])
def test_the_first_two_options_are_refused_like_the_others(arguments):
    with pytest.raises(ValueError, match=f"argument {arguments[0]}: expected one"):
        train(*arguments)


def test_a_workdir_has_a_name_and_is_no_part_of_another(tmp_path):
    with pytest.raises(ValueError, match="--workdir must name a folder; got ''"):
        train("--workdir", "")
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    for inside in (tmp_path / "checkpoints", tmp_path / "checkpoints" / "20"):
        with pytest.raises(ValueError, match=rf"the run is {tmp_path}$"):
            train("--workdir", str(inside))
        assert enclosing_run(inside) == tmp_path
    assert train("--workdir", str(tmp_path)).workdir == tmp_path
    assert train("--workdir", f"{tmp_path}/second").workdir == tmp_path / "second"
    assert enclosing_run(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        (b"# A title\n\n![picture](x.png)", "SyntaxError: "),
        (b"\xff\x00", "SyntaxError: "),
        (b"def get_config():\n    return 1 / 0", "ZeroDivisionError: division"),
    ],
)
def test_a_config_file_that_fails_is_named(tmp_path, content, line):
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\.py: {line}"):
        command.read_config(tmp_path / "mine.py")


@pytest.fixture
def told(monkeypatch):
    """What JAX is told, in a process that has told it nothing yet."""
    values = {"jax_compilation_cache_dir": None}
    config = types.SimpleNamespace(values=values, update=values.__setitem__)
    monkeypatch.setattr(command.jax, "config", config)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return values


def test_compiled_programs_are_kept_at_home(told, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command.prepare_jax()
    assert told["jax_compilation_cache_dir"] == str(tmp_path / ".cache" / "ddpm_jax")
    assert os.access(told["jax_compilation_cache_dir"], os.W_OK)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_freed_memory_is_kept_where_the_host_computes(told, monkeypatch, backend):
    kept = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    command.prepare_jax()
    assert kept == [True] * (backend == "cpu")


def test_without_a_home_nothing_is_kept(told, tmp_path, monkeypatch):
    def absent(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    with monkeypatch.context() as patch:
        patch.setattr(pwd, "getpwuid", absent)
        command.prepare_jax()
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    command.prepare_jax()
    monkeypatch.setenv("HOME", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, how: False)
        command.prepare_jax()
    assert told["jax_compilation_cache_dir"] is None


@pytest.mark.parametrize(
    "error",
    [AssertionError(), RuntimeError("Unable to initialize backend 'tpu': none")],
)
def test_a_platform_that_is_not_there_is_named(monkeypatch, error):
    def fails():
        raise error

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(
        ValueError, match=r"JAX_PLATFORMS='cuda'; GPUs .*\[cuda12\]"
    ) as e:
        command.prepare_jax()
    assert str(e.value).endswith(str(error))


@pytest.mark.processes
def test_a_run_outlives_its_reader_whatever_it_is_called(tmp_path):
    """Its workdir is no ASCII, stdout is; stderr is closed, and nobody reads on."""
    workdir = tmp_path / "Läufe"
    options = "--train.num-steps 3 --train.log-every 1 --sample.steps 2 "
    options += " ".join(SMALL)
    done = subprocess.run(
        f'set -o pipefail; "{sys.executable}" train.py --config configs/smoke.py '
        f'--workdir "{workdir}" {options} 2>&- | head -c 1',
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"d")
    assert (workdir / "samples" / "step_0000003.png").exists()
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 3

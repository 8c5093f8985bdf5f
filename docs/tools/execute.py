"""Runs every command line and code block of README.md and docs/.

    python docs/tools/execute.py                    all
    python docs/tools/execute.py README.md          these files

Each file has a folder of its own with a small trained run in runs/digits, and its
blocks run there from top to bottom: Python in one namespace, shell in bash. `python`,
`pip` and the commands of the package are stood in for: they parse the command line as
it is written, and then do little work (`programs.py`); `pip` holds that the extras
exist. What is marked as not to be run (`blocks.py`) is parsed, and so are the options
that the text names. Ends with one line for each fault, and exit code 1.
"""

# ruff: noqa: E402

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
CACHE = os.path.join(ROOT, ".pytest_cache", "jax")  # the tests', with their flags
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import ast
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import programs
import served
from blocks import Block, blocks

TREE = ("configs", "train.py", "sample.py")  # what commands name of a checkout
STAND_INS = ("python", "python3", "pip", "ddpm-train", "ddpm-sample")
STAND_INS += ("ddpm-evaluate", "ddpm-import", "ddpm-export", "ddpm-report")
SLURM = {"--gpus-per-task", "--gpu-bind"}
SECONDS = 600  # that a block may take
AT_ONCE = 2  # files


def main() -> None:
    """Parses all, runs all, tells the faults."""
    root = pathlib.Path(ROOT)
    files = [root / name for name in sys.argv[1:]] or [
        root / "README.md",
        *sorted((root / "docs").rglob("*.md")),
    ]
    began = time.perf_counter()
    found = {file: blocks(file, root) for file in files}
    faults = [fault for file in files for fault in parsed(file, found[file])]
    with tempfile.TemporaryDirectory() as scratch:
        faults += run_all({x: b for x, b in found.items() if b}, pathlib.Path(scratch))
    count = sum(len(each) for each in found.values())
    run = sum(not x.not_run for each in found.values() for x in each)
    print(*faults, sep="\n", end="\n" * bool(faults))
    seconds, work = time.perf_counter() - began, os.times()
    cpu = work.user + work.system + work.children_user + work.children_system
    took = f"{seconds:.0f} s, {cpu:.0f} s of CPU"
    print(f"{count} blocks of {len(files)} files, {run} of them run: {took}")
    sys.exit(bool(faults))


def parsed(file: pathlib.Path, found: list[Block]) -> list[str]:
    """The faults of what is only parsed: blocks, and options within the text."""
    os.chdir(ROOT)
    faults = []
    for block in found:
        if block.language == "python":
            try:
                ast.parse(block.code)
            except SyntaxError as error:
                faults.append(f"{block.place}: {error}")
        elif block.language == "bash" and block.not_run:
            for words in programs.commands(block.code):
                if refused := programs.refusal(words):
                    faults.append(f"{block.place}: {' '.join(words)}: {refused}")
    return faults + unknown_options(file)


def unknown_options(file: pathlib.Path) -> list[str]:
    """A line for each option that a sentence names and none of our programs takes.

    Those of others have underscores, or stand first in a row of a page for whoever
    comes from there.
    """
    text = re.sub(r"^```.*?^```|^#.*?$", "", file.read_text(), flags=re.M | re.S)
    if file.name.startswith("from_"):
        text = re.sub(r"^\|[^|]*\|", "", text, flags=re.M)
    known = programs.options() | SLURM
    found = []
    for span in re.findall(r"`([^`]+)`", text):
        words = span.split()
        if words and (words[0].startswith("--") or programs.named(words)[0]):
            named = (x.partition("=")[0] for x in words if re.match("--[a-z]", x))
            found += [x for x in named if x not in known and "_" not in x]
    return [f"{file.name}: no program takes {option}" for option in found]


def run_all(found: dict[pathlib.Path, list[Block]], scratch: pathlib.Path) -> list[str]:
    """The faults of what is run, file by file, some at once."""
    programs.shorten()
    server = served.start(scratch / "socket")
    tools = stand_ins(scratch)
    faults, running = [], {}
    waiting = sorted(found, key=lambda file: -len(found[file]))  # the longest first
    try:
        base = scratch / "base"
        train = Block("the small run", 1, "bash", "python train.py", "")
        made = in_process(base, tools, [train])
        os.waitpid(made, 0)
        faults += told(base)
        waiting = waiting if not faults else []
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                file = waiting.pop(0)
                folder = scratch / str(len(waiting))
                shutil.copytree(base / "runs", folder / "runs")
                running[in_process(folder, tools, found[file])] = folder
            ended, _ = os.wait()
            faults += told(running.pop(ended, scratch))
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return faults


def told(folder: pathlib.Path) -> list[str]:
    """The faults that a process has left; one without its list has been killed."""
    file = folder / "faults"
    if not file.is_file():
        return [f"{folder.name} ended before its end"] if folder.is_dir() else []
    return file.read_text().splitlines()


def stand_ins(scratch: pathlib.Path) -> pathlib.Path:
    """A folder of programs that ask the server to be them."""
    folder = scratch / "bin"
    folder.mkdir()
    client = os.path.join(ROOT, "docs", "tools", "client.py")
    for name in STAND_INS:
        path = folder / name
        asks = f"{sys.executable} -ISE {client} {scratch}/socket"
        path.write_text(f'#!/bin/sh\nexec {asks} "$0" "$@"\n')
        path.chmod(0o755)
    (folder / "activate").touch()
    return folder


def in_process(folder: pathlib.Path, tools: pathlib.Path, found: list[Block]) -> int:
    """Runs the blocks of a file in a new process; returns its number."""
    folder.mkdir(exist_ok=True)
    for name in TREE:
        (folder / name).symlink_to(os.path.join(ROOT, name))
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(tools)
    (folder / "home").mkdir()
    child = os.fork()
    if child:
        return child
    try:
        fault = in_order(folder, tools, found)
        (folder / "faults").write_text(f"{fault}\n" if fault else "")
    finally:
        sys.stdout.flush()
        os._exit(0)


def in_order(folder: pathlib.Path, tools: pathlib.Path, found: list[Block]) -> str:
    """Runs blocks one after the other; returns the first fault, or ""."""
    os.chdir(folder)
    os.environ["HOME"] = str(folder / "home")
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
    output = (folder / "output").open("w+")
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        if block.not_run or block.language not in ("bash", "python"):
            continue
        begin = output.seek(0, os.SEEK_END)
        try:
            if block.before:
                exec(compile(block.before, f"{block.place}, first", "exec"), names)
            if block.language == "python":
                padded = "\n" * (block.line - 1) + block.code
                exec(compile(padded, block.file, "exec"), names)
                continue
            shell = ["bash", "-euo", "pipefail", "-c", block.code]
            code = subprocess.run(shell, timeout=SECONDS, stdin=subprocess.DEVNULL)
            if not code.returncode:
                continue
            output.seek(begin)
            last = (output.read().strip().splitlines() or ["no output"])[-1]
            return f"{block.place}: exit code {code.returncode}: {last}"
        except BaseException as error:
            lines = [x.lineno for x in traceback.extract_tb(error.__traceback__)]
            line = lines[1] if len(lines) > 1 else block.line
            said = " ".join(str(error).split())
            return f"{block.file}:{line}: {type(error).__name__}: {said}"
    return ""


if __name__ == "__main__":
    main()

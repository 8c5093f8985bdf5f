"""Every command, with every kind of wrong option: one line of error, nothing harmed.

    python benchmarks/wrong_options.py

Gives each command options that it cannot follow: unknown, misspelt, of another type,
out of range, without a value, at odds with each other or with the run, and paths that
are missing, files, folders, not writable, or no text. Each must end with an exit code
other than 0 and with exactly one line on stderr that begins with "error: ", and must
leave a tree with a run, weights and other files as it was, to the byte.

A command runs in a fork of this process, which has imported everything and used no
device yet: as from a shell, but within tenths of a second.
"""

import argparse
import collections
import hashlib
import importlib
import os
import pathlib
import runpy
import shutil
import signal
import sys
import tempfile
import time

import jax
from measure import write
from wrong_cases import Words, cases, make_tree

ROOT = pathlib.Path(__file__).parent.parent
RESULT = "wrong_options.json"
RESULTS = pathlib.Path(__file__).parent / "results"
SECONDS = 120  # after which a command has not noticed

PROGRAMS = {
    "train": "train.py",
    "sample": "sample.py",
    "interop": "ddpm_jax.interop",
    "likelihood": "ddpm_jax.evaluation.likelihood",
    "figures": "ddpm_jax.figures",
    "data": "ddpm_jax.data",
}
NEEDED = (  # what the commands import, so that a fork does not have to
    *("ddpm_jax.loading", "ddpm_jax.training.loop", "ddpm_jax.drawing"),
    *("ddpm_jax.interop.__main__", "ddpm_jax.evaluation.likelihood.__main__"),
    *("ddpm_jax.figures.__main__", "ddpm_jax.data.__main__"),
)


def snapshot(root: pathlib.Path) -> dict[str, tuple[int, str]]:
    """Mode and content of everything below."""
    found = {}
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        found[str(path.relative_to(root))] = (path.lstat().st_mode, digest)
    return found


def run(program: str, arguments: Words, root: pathlib.Path) -> tuple[int | None, str]:
    """(exit code or None, stderr) of a command in a fork of this process."""
    log = root.parent / "stderr"
    child = os.fork()
    if child == 0:
        _become(program, [os.fsdecode(x) for x in arguments], root / "here", log)
    deadline = time.monotonic() + SECONDS
    status = 0
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, log.read_text(errors="replace")


def _become(program: str, arguments: list[str], here: pathlib.Path, log) -> None:
    """Runs the command as this process; never returns."""
    code = 70
    try:
        for descriptor, path in ((0, os.devnull), (1, os.devnull), (2, log)):
            flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_TRUNC
            os.dup2(os.open(path, flags | os.O_CREAT), descriptor)
        os.chdir(here)
        name = PROGRAMS[program]
        sys.argv = [name, *arguments]
        try:
            if name.endswith(".py"):
                runpy.run_path(str(ROOT / name), run_name="__main__")
            else:
                for there in (name, f"{name}.__main__"):  # or runpy warns of it
                    if hasattr(sys.modules.get(there), "main"):
                        del sys.modules[there]
                runpy.run_module(name, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stderr.flush()
    finally:
        os._exit(code)


def fault(code: int | None, said: str) -> str | None:
    """What is wrong with how a command has ended; None = nothing."""
    if code is None:
        return f"did not end within {SECONDS} s"
    if code == 0:
        return "was accepted"
    lines = said.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: ") or lines[0][7:].isspace():
        return f"{len(lines)} lines: {said[-500:]!r}"
    if len(lines[0]) > 1000:
        return f"a line of {len(lines[0])} characters"
    return None


def main() -> None:
    """Tries all, prints the faults and their number; exit code 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=PROGRAMS, help="one command alone")
    parser.add_argument("--show", action="store_true", help="print every line")
    parser.add_argument(
        "--out", type=pathlib.Path, default=RESULTS / "wrong_options.json"
    )
    options = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    jax.config.update("jax_enable_compilation_cache", False)  # read already
    for name in NEEDED:
        importlib.import_module(name)
    count: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch) / "tree"
        root.mkdir()
        make_tree(root)
        before = snapshot(root)
        whole = shutil.copytree(root, pathlib.Path(scratch) / "whole")
        for program, arguments in cases(root):
            if options.only not in (None, program):
                continue
            count[program] += 1
            code, said = run(program, arguments, root)
            words = " ".join(os.fsdecode(x) or "''" for x in arguments)
            words = ascii(words.replace(str(root), "TREE").replace(str(ROOT), "."))
            found = fault(code, said)
            after = snapshot(root)
            if after != before:
                changed = {x for x in before | after if before.get(x) != after.get(x)}
                found = f"{found or ''} changed {sorted(changed)[:5]}".strip()
                shutil.rmtree(root)
                shutil.copytree(whole, root)
            if found:
                faults.append(f"{program} {words}: {found}")
                print(faults[-1], flush=True)
            elif options.show:
                print(f"{program} {words}\n    {code}: {said.strip()}", flush=True)
    total = sum(count.values())
    print(f"{total} wrong options ({dict(count)}), faults: {len(faults)}")
    if options.only is None:
        write(options.out, {"options": dict(count), "total": total, "faults": faults})
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

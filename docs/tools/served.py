"""A process with the package imported, of which each command of a shell is a fork.

So a command starts at once, and still is a process of its own.
"""

import array
import contextlib
import json
import os
import pathlib
import re
import socket
import sys
import tomllib

import programs

ROOT = pathlib.Path(__file__).parents[2]


def start(path: pathlib.Path) -> int:
    """Starts the server; returns the number of its process."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    server = os.fork()
    if server:
        listening.close()
        return server
    while True:
        asked, _ = listening.accept()
        with contextlib.suppress(ChildProcessError):  # there is none to be reaped
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if not os.fork():
            listening.close()
            answer(asked)
        asked.close()


def answer(asked: socket.socket) -> None:
    """Is the command that a client asks for, to its exit code."""
    code = 1
    try:
        size = array.array("i").itemsize
        message, extra, *_ = asked.recvmsg(1 << 20, socket.CMSG_LEN(3 * size))
        files = array.array("i", extra[0][2])
        for stream, file in enumerate(files):
            os.dup2(file, stream)
        wanted = json.loads(message)
        os.chdir(wanted["cwd"])
        os.environ.update(wanted["env"])
        sys.argv = wanted["words"]
        code = be(sys.argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        asked.send(bytes([code]))
        os._exit(0)


def be(words: list[str]) -> int:
    """Does what the command line says; returns the exit code."""
    name = pathlib.PurePath(words[0]).name
    if name == "pip":
        return pip(words[1:])
    if name.startswith("python") and words[1:3] == ["-m", "venv"]:
        return 0
    program = programs.runnable(words)
    if program is None:
        print(f"error: not stood in for: {' '.join(words)}", file=sys.stderr)
        return 1
    inner = {"-m": words[2:]}.get(words[1] if words[1:] else "", words[1:])
    sys.argv = inner if name.startswith("python") else words
    program()
    return 0


def pip(words: list[str]) -> int:
    """Holds that the extras which are named exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(project["optional-dependencies"])
    named = re.findall(r"(?:^|\s)(?:\.|ddpm_jax)\[([\w,]+)\]", " ".join(words))
    unknown = {extra for each in named for extra in each.split(",")} - known
    if unknown:
        print(f"error: no extra {', '.join(sorted(unknown))}", file=sys.stderr)
    return bool(unknown)

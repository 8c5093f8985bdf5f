"""Worker processes, asked in turn: requests and answers are lines of JSON."""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax.allocator import keep_freed_memory


class Worker:
    """A script in a process of its own, which `serve`s."""

    def __init__(self, script: pathlib.Path, environ: dict[str, str] | None = None):
        self._name = script.name
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """What the worker's handler of that name answers; ends the program if none."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"{self._name} ended at {do!r}; what it wrote is above")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers requests until there are no more; what is printed goes to stderr.

    Freed memory stays with the process, as in train.py: PyTorch's, too, which gains by
    it.
    """
    keep_freed_memory()
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop("do")](**request)
        except SystemExit as error:
            answer = {"error": str(error)}
        out.write(json.dumps(answer, default=float) + "\n")
        out.flush()


def milliseconds(
    call: Callable[[], Any], wait: Callable[[Any], Any], seconds: float, once_ms: float
) -> float:
    """Of one call, by as many in a row as should fit into the seconds."""
    count = max(1, round(1e3 * seconds / once_ms))
    began = time.perf_counter()
    for _ in range(count):
        result = call()
    wait(result)
    return 1e3 * (time.perf_counter() - began) / count


def warm(call: Callable[[], Any], wait: Callable[[Any], Any]) -> dict[str, float]:
    """Calls until nothing is compiled or tuned any more: {first_s, once_ms}."""
    began = time.perf_counter()
    wait(call())
    first = time.perf_counter() - began
    wait(call())
    return {"first_s": first, "once_ms": milliseconds(call, wait, 0, 1)}

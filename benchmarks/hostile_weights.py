"""Files of weights that are damaged or hostile: one line each, soon, in little memory.

    python benchmarks/hostile_weights.py --mutations 2000

Writes the tiny good files of `hostile_files`, reads its hostile ones, and so many
mutations of each format; each in a worker process that is watched for seconds, memory
and crashes. What is read must be the good file's numbers and config to the bit, but
where the format cannot tell: a safetensors file and a PyTorch file from before 1.6 have
no sums, and a JSON file can say something else. Needs PyTorch for PyTorch's files.
"""

import argparse
import collections
import functools
import hashlib
import json
import pathlib
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from hostile_files import HINTS, Files, cases, good_files
from measure import write
from mutations import mutated

from ddpm_jax.interop import load
from ddpm_jax.interop.read import read_model

RESULTS = pathlib.Path(__file__).parent / "results"
SECONDS, MEGABYTES = 5.0, 1000  # of one file; the seconds are of the processor
SPACE = 4 * 2**30  # addresses that the worker may map beside those of its imports
LONGEST = 5000  # characters of a line
SUMS = ("npz", "pt")  # formats in which no damage may go unnoticed


class Outcome(NamedTuple):
    """What came of one file: "refused", "read", or what is wrong with it."""

    kind: str
    said: str
    digest: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


Outcomes = list[tuple[str, Outcome]]


def read(path: pathlib.Path, layout: str) -> Outcome:
    """Reads what is at `path` and judges how."""
    _forget_peak()
    before, began = _resident(), time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = _read(path, layout)
    if warned and outcome.kind != "wrong":
        outcome = Outcome("wrong", f"warns: {warned[0].message}")
    seconds, megabytes = time.process_time() - began, (_peak() - before) / 1e6
    if seconds > SECONDS or megabytes > MEGABYTES:
        outcome = Outcome("wrong", f"takes {seconds:.1f} s and {megabytes:.0f} MB")
    return outcome._replace(seconds=seconds, megabytes=megabytes)


def _read(path: pathlib.Path, layout: str) -> Outcome:
    try:
        model = read_model(path, HINTS[layout])
    except (ValueError, OSError) as error:
        line = str(error)
        for holds, wrong in (
            (str(path) in line, "names no file"),
            (line.isprintable(), "has characters that cannot be printed"),
            (len(line) <= LONGEST, f"has {len(line)} characters"),
        ):
            if not holds:
                return Outcome("wrong", f"{wrong}: {ascii(line)[:300]}")
        return Outcome("refused", line)
    except BaseException as error:
        return Outcome("wrong", f"{type(error).__name__}: {ascii(str(error))[:300]}")
    digest = hashlib.sha256(repr((model.config, model.step)).encode())
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf).tobytes())
    return Outcome("read", "", digest.hexdigest())


def work() -> None:
    """Reads what the lines of the input name, until they end."""
    # Of a thousand files most are the same network; a user's one is traced once, too.
    load.parameter_shapes = functools.lru_cache(8)(load.parameter_shapes)
    limit = _status("VmSize") + SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        path, layout = json.loads(line)
        outcome = read(pathlib.Path(path), layout)
        print(json.dumps(outcome), flush=True)


class Worker:
    """A process that reads files one by one, and is started again when it must be."""

    def __init__(self, patience: float):
        self.patience = patience  # seconds of the clock until it is killed
        self.process: subprocess.Popen | None = None

    def read(self, path: pathlib.Path, layout: str) -> Outcome:
        """What comes of the file, also if it takes the process with it."""
        if self.process is None:
            command = [sys.executable, __file__, "--worker"]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([str(path), layout]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self.patience)
        line = process.stdout.readline() if ready else ""
        if line:
            return Outcome(*json.loads(line))
        self.process = None
        process.kill()
        code = process.wait()
        ended = f"ends the process with {code}" if ready else "does not end"
        return Outcome("wrong", ended)

    def close(self) -> None:
        """Lets the process end."""
        if self.process is not None:
            self.process.communicate()


def place(folder: pathlib.Path, files: Files) -> pathlib.Path:
    """Writes the files in place of those before; the path to read."""
    for path, content in files.contents.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder / files.path


def main() -> None:
    """Reads everything, prints the counts, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutations", type=int, default=2000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds")
    parser.add_argument("--verbose", action="store_true", help="print every line")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "hostile.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    try:
        import torch
    except ImportError:
        torch = None
        print("without PyTorch its files are left out")
    worker = Worker(options.patience)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        outcomes = of_cases(folder, worker, torch)
        result["hostile files"] = report("hostile files", outcomes, options.verbose)
        for form, files in good_files(torch).items():
            outcomes = of_mutations(folder, worker, form, files, options)
            kind = f"mutations of {form}"
            result[kind] = report(kind, outcomes, options.verbose)
    worker.close()
    write(options.out, {"seed": options.seed, **result})
    sys.exit(any("wrong" in counts for counts in result.values()))


def of_cases(folder: pathlib.Path, worker: Worker, torch: Any) -> Outcomes:
    """What comes of the hostile files, all of which must be refused."""
    outcomes = []
    for number, (case, files) in enumerate(cases(torch)):
        at = folder / f"case{number}"
        outcome = worker.read(place(at, files), files.layout)
        shutil.rmtree(at)
        if outcome.kind == "read":
            outcome = outcome._replace(kind="wrong", said="it is read")
        outcomes.append((case, outcome))
    return outcomes


def of_mutations(
    folder: pathlib.Path,
    worker: Worker,
    form: str,
    files: Files,
    options: argparse.Namespace,
) -> Outcomes:
    """What comes of mutations of a good file, one after the other in its place."""
    at = folder / form.replace(" ", "_")
    whole = worker.read(place(at, files), files.layout)
    if whole.kind != "read":
        raise SystemExit(f"the good {form} is not read: {whole.said}")
    outcomes = []
    for number in range(options.mutations):
        rng = random.Random(f"{options.seed} {form} {number}")
        how, damaged = mutated(form, files, rng)
        outcome = worker.read(place(at, damaged), files.layout)
        outcomes.append((f"{number}, {how}", judged(outcome, whole, form, how)))
    return outcomes


def judged(outcome: Outcome, whole: Outcome, kind: str, how: str) -> Outcome:
    """What was read, beside the good file."""
    if outcome.kind != "read":
        return outcome
    if outcome.digest == whole.digest:
        return outcome._replace(kind="read, the same")
    if kind in SUMS and not how.startswith("edit"):
        return outcome._replace(kind="wrong", said="damage was not noticed")
    return outcome._replace(kind="read, another")


def report(title: str, outcomes: Outcomes, verbose: bool) -> dict[str, Any]:
    """Prints and returns how many there are of each kind, and the costliest."""
    slowest = max(outcomes, key=lambda item: item[1].seconds)
    largest = max(outcomes, key=lambda item: item[1].megabytes)
    counts = {
        "files": len(outcomes),
        **collections.Counter(outcome.kind for _, outcome in outcomes),
        "slowest": f"{slowest[1].seconds:.2f} s, {slowest[0]}",
        "largest": f"{largest[1].megabytes:.0f} MB, {largest[0]}",
    }
    print(f"{title}: {', '.join(f'{name} {x}' for name, x in counts.items())}")
    for name, outcome in outcomes:
        if verbose or outcome.kind == "wrong":
            print(f"    {name}: {outcome.kind}: {outcome.said}")
    return counts


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}: this needs Linux")


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _forget_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()

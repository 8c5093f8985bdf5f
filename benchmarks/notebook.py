"""How long a notebook waits: for its first digits, and for the next ones.

    python benchmarks/notebook.py --workdir runs/digits

The first wait begins before `import ddpm_jax` in a fresh process and ends with 16
digits of one label, by DDIM in 20 steps, guided. The second draw has another seed,
label and scale, and should compile nothing. Both show the progress bar, as in a
notebook. A first process fills an empty compilation cache, the next ones find it full;
the table shows the median of those, and the largest number of compilations.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"
COMPILED = "/jax/core/compile/backend_compile_duration"  # also when a cache has it
BOUNDS = {"first_seconds": 15.0, "second_seconds": 0.5, "second_compilations": 0}


def session(workdir: pathlib.Path) -> dict[str, float]:
    """What a notebook does, timed: import, load, draw, draw again."""
    began = time.perf_counter()
    import jax

    import ddpm_jax

    compiled: list[float] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    model = ddpm_jax.load(workdir)

    def draw(seed: int, label: int, guidance: float) -> None:
        x = model.sample(
            seed,
            16,
            sampler="ddim",
            steps=20,
            label=label,
            guidance=guidance,
            progress=True,
        )
        x.block_until_ready()

    draw(0, 3, 2.0)
    first, programs = time.perf_counter() - began, len(compiled)
    began = time.perf_counter()
    draw(1, 7, 3.5)
    return {
        "first_seconds": first,
        "first_compilations": programs,
        "second_seconds": time.perf_counter() - began,
        "second_compilations": len(compiled) - programs,
    }


def fresh(workdir: pathlib.Path, cache: str) -> dict[str, float]:
    """A session in a process of its own, with the compilation cache in `cache`.

    Raises:
        RuntimeError: if it fails; with what it said.
    """
    settings = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    done = subprocess.run(
        [sys.executable, __file__, "--workdir", str(workdir), "--session"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/digits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "notebook.json")
    parser.add_argument("--session", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.session:
        print(json.dumps(session(options.workdir)))
        return

    from measure import write  # imports jax, which the session is to time

    with tempfile.TemporaryDirectory() as cache:
        cold = fresh(options.workdir, cache)
        warm = [fresh(options.workdir, cache) for _ in range(options.repeats)]
    if not cold["first_compilations"]:
        raise RuntimeError(f"this jax does not report {COMPILED}: nothing was counted")

    print("| measure | value | bound |\n|---|---|---|")
    print(f"| first_seconds, cold cache | {cold['first_seconds']:.2f} | |")
    measures = {}
    for name in cold:
        values = [each[name] for each in warm]
        low, value, high = np.percentile(values, [25, 50, 75])
        measures[name] = {"value": value, "low": low, "high": high}
        if name.endswith("compilations"):
            measures[name] = {"value": max(values)}
        shown = ""
        if name in BOUNDS:
            measures[name]["bound"] = BOUNDS[name]
            shown = f"at most {BOUNDS[name]:g}"
        print(f"| {name} | {measures[name]['value']:.2f} | {shown} |")
    write(options.out, {"cold": cold, "warm": measures, "repeats": options.repeats})


if __name__ == "__main__":
    main()

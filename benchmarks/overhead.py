"""What the training loop costs beside the updates: the host's work, and the saving.

    python benchmarks/overhead.py --config configs/digits.py

The loop and the bare update take turns in blocks of steps; the difference is the time
that the devices wait for the host. The host's own work is timed with no device at all.
"""

import argparse
import dataclasses
import io
import json
import pathlib
import runpy
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout

import jax
import numpy as np
from measure import write

from ddpm_jax import build
from ddpm_jax.allocator import keep_freed_memory
from ddpm_jax.config import to_dict
from ddpm_jax.training import checkpoints, loop, parallel
from ddpm_jax.training.feed import make_feed
from ddpm_jax.training.report import Report
from ddpm_jax.training.setup import make_update

RESULTS = pathlib.Path(__file__).parent / "results"


class Bare:
    """The update alone, on a batch that is chosen beforehand."""

    def __init__(self, config):
        self.config = config
        self.feed = make_feed(config.data, build.load_images(config.data, "train"))
        step, initial = make_update(config)
        runner = parallel.jit_runner(
            step, parallel.make_mesh(), jax.eval_shape(initial)
        )
        self.update, self.state = runner.update, runner.make_state(initial)
        self.data = runner.place_data(self.feed.resident)
        self.batch = next(self.feed.batches(0, config.train.batch_size, 0))

    def steps(self, count: int) -> float:
        """Milliseconds of an update, many in a row."""
        began = time.perf_counter()
        for _ in range(count):
            self.state, metrics = self.update(self.state, self.data, self.batch)
        jax.block_until_ready(metrics)
        return 1e3 * (time.perf_counter() - began) / count


def loop_speed(config, workdir: pathlib.Path, count: int) -> float:
    """Milliseconds of a step of the loop, by its own clock; goes on each time."""
    done = max(checkpoints.complete_steps(workdir / "checkpoints"), default=0)
    train = dataclasses.replace(
        config.train,
        num_steps=done + count,
        log_every=count // 4,
        checkpoint_every=10**9,
    )
    quiet = io.StringIO()
    with redirect_stdout(quiet), redirect_stderr(quiet):
        loop.run(dataclasses.replace(config, train=train), workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    name = "images_per_second"  # which an evaluation has none of
    speeds = [line[name] for line in lines if name in line][-3:]
    return float(np.median([1e3 * train.batch_size / speed for speed in speeds]))


def host_work(bare: Bare, workdir: pathlib.Path, count: int = 500) -> float:
    """Milliseconds a step of what the loop does in Python, with no device."""
    batches = bare.feed.batches(0, bare.config.train.batch_size, 0)
    with redirect_stderr(io.StringIO()):
        report = Report(
            workdir, first_step=0, num_steps=count, batch_size=64, log_every=50
        )
        began = time.perf_counter()
        for step in range(1, count + 1):
            next(batches)
            report.step(step, {"loss": 1.0, "grad_norm": 1.0})
        taken = time.perf_counter() - began
        report.close()
    return 1e3 * taken / count


def saving(bare: Bare, workdir: pathlib.Path, repeats: int) -> list[list[float]]:
    """Seconds that a save holds the loop, and seconds until it is on disk."""
    taken = []
    with checkpoints.open_checkpoints(workdir) as manager:
        for i in range(repeats + 1):
            state = bare.state.replace(step=bare.state.step + i)
            began = time.perf_counter()
            checkpoints.save(manager, state, to_dict(bare.config))
            held = time.perf_counter() - began
            manager.wait_until_finished()
            taken.append([held, time.perf_counter() - began])
    return taken[1:]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=pathlib.Path, default="configs/digits.py")
    parser.add_argument("--steps", type=int, default=80, help="in a block")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    keep_freed_memory()  # as the program does
    config = runpy.run_path(str(options.config))["get_config"]()
    sample = dataclasses.replace(config.sample, every=10**9, steps=2, num=1)
    config = dataclasses.replace(config, sample=sample)
    bare = Bare(config)
    with tempfile.TemporaryDirectory() as scratch:
        places = [pathlib.Path(scratch, x) for x in ("loop", "host", "saves")]
        for place in places:
            place.mkdir()
        bare.steps(5)
        pairs = []
        for _ in range(options.repeats):
            before = bare.steps(options.steps)
            mine = loop_speed(config, places[0], options.steps)
            after = bare.steps(options.steps)
            pairs.append([mine, (before + after) / 2])
        python = host_work(bare, places[1])
        saves = saving(bare, places[2], options.repeats)
    ratio = [mine / alone - 1 for mine, alone in pairs]
    step = float(np.median([alone for _, alone in pairs]))
    held, whole = np.median(saves, axis=0)
    every = config.train.checkpoint_every * step / 1e3
    result = {
        "config": options.config.stem,
        "step_ms": step,
        "loop_over_bare_percent": [100 * x for x in np.percentile(ratio, [25, 50, 75])],
        "python_ms_per_step": python,
        "python_percent_of_step": 100 * python / step,
        "save_holds_the_loop_s": held,
        "save_until_on_disk_s": whole,
        "save_percent_of_run": 100 * held / every,
        "save_percent_of_run_at_most": 100 * whole / every,
    }
    for name, value in result.items():
        print(f"{name:30} {value}")
    name = f"overhead_{options.config.stem}_{jax.devices()[0].platform}.json"
    write(options.out or RESULTS / name, result)


if __name__ == "__main__":
    main()

"""A run that is killed again and again must end as the run that never was.

    python benchmarks/storm.py --kills 25

Starts a training run, kills it at random moments (kill -9 or SIGTERM; while it imports,
compiles, restores, steps or saves), starts it again each time, and compares the last
weights with those of an uninterrupted run: bit for bit.
"""

import argparse
import collections
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from measure import write

from ddpm_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"


def start(workdir: pathlib.Path, options: argparse.Namespace) -> subprocess.Popen:
    """train.py, as a person starts it."""
    command = [sys.executable, "train.py", "--config", "configs/smoke.py"]
    command += ["--workdir", str(workdir), "--train.log-every", "1"]
    command += ["--train.num-steps", str(options.steps), "--sample.every", "1000000"]
    command += ["--train.checkpoint-every", str(options.checkpoint_every)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lines(workdir: pathlib.Path) -> int:
    """Updates that the run has reported."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def saving(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is being written now."""
    return any((workdir / "checkpoints").glob(f"*{checkpoints.UNFINISHED}*"))


def wait_for(process: subprocess.Popen, happens) -> None:
    """Until it happens or the process ends."""
    while process.poll() is None and not happens():
        time.sleep(0.002)


def kill(process, workdir, moment: str, number: signal.Signals, rng) -> None:
    """Sends the signal at a random time of the moment; waits for the end."""
    if moment == "start":  # imports, compilation, restore
        time.sleep(rng.uniform(0, 12))
    before = lines(workdir)
    if moment in ("step", "save"):
        wait_for(process, lambda: lines(workdir) not in (0, before))
        time.sleep(rng.uniform(0, 1))
    if moment == "save":
        wait_for(process, lambda: saving(workdir))
        time.sleep(rng.uniform(0, 0.1))
    process.send_signal(number)


def leaves(workdir: pathlib.Path, step: int) -> list[np.ndarray]:
    """All arrays of a checkpoint."""
    args = checkpoints.ocp.args
    both = args.Composite(state=args.StandardRestore(), ema=args.StandardRestore())
    place = workdir / "checkpoints"
    with checkpoints.open_checkpoints(place, read_only=True) as manager:
        items = manager.restore(step, args=both)
    key = jax.dtypes.prng_key
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, key) else x)
        for x in jax.tree.leaves([items["state"], items["ema"]])
    ]


def main() -> None:
    """Storms, compares, writes; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--checkpoint-every", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "storm.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds, ends, faults = collections.Counter(), collections.Counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        calm, storm = pathlib.Path(scratch, "calm"), pathlib.Path(scratch, "storm")
        whole = start(calm, options)
        whole.communicate()
        place, newest = storm / "checkpoints", 0
        for count in range(options.kills):
            moment = rng.choice(["start", "step", "save"])
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            process = start(storm, options)
            kill(process, storm, moment, number, rng)
            output = process.communicate(timeout=120)[0]
            kinds[f"{number.name} at {moment}"] += 1
            ends[process.returncode] += 1
            if process.returncode == 0:
                faults.append(f"the run was over at kill {count}: more --steps")
                break
            said = [x for x in output.splitlines() if x.startswith("resumed from")]
            if said and said != [f"resumed from step {newest}"]:
                faults.append(f"{said[0]}, where step {newest} was complete")
            now = max(checkpoints.complete_steps(place), default=0)
            if now < newest:
                faults.append(f"step {newest} was complete; now the newest is {now}")
            newest = now
            print(f"{count + 1:3} {number.name} at {moment}: step {newest} is complete")
        last = start(storm, options)
        last.communicate()
        if list(place.glob(f"*{checkpoints.UNFINISHED}*")):
            faults.append("temporary directories are left over")
        alive = subprocess.run(["pgrep", "-f", str(storm)], capture_output=True)
        if alive.stdout:
            faults.append(f"processes are left over: {alive.stdout.split()}")
        pairs = list(
            zip(leaves(calm, options.steps), leaves(storm, options.steps), strict=True)
        )
        different = sum(not np.array_equal(a, b) for a, b in pairs)
        if different:
            faults.append(f"{different} of {len(pairs)} arrays differ")
    result = {
        "kills": dict(kinds),
        "exit_codes": {str(code): n for code, n in ends.items()},
        "steps": options.steps,
        "arrays_compared": len(pairs),
        "arrays_different": different,
        "faults": faults,
    }
    write(options.out, result)
    print(f"{sum(kinds.values())} kills, {different} arrays differ, faults: {faults}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

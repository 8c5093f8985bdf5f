"""A run that is killed again and again must end as the run that never was.

    python benchmarks/storm.py --kills 32

Starts a training run, kills it at random moments (kill -9 or SIGTERM; while it imports,
compiles, restores, steps or writes a checkpoint), starts it again each time, sends it
eleven signals, one a start, and compares the last weights with those of an
uninterrupted run: bit for bit.
"""

import argparse
import collections
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import jax
import numpy as np
from measure import write

from ddpm_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
SIGNALS = [
    signal.Signals[f"SIG{name}"]
    for name in "INT TERM HUP QUIT KILL SEGV USR1 USR2 ALRM PIPE STOP".split()
]


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


def kill(process, workdir, moment: str, number: signal.Signals, rng) -> bool:
    """Sends the signal at a random time of the moment.

    Returns:
        Whether a checkpoint was being written just then.
    """
    if moment == "start":  # imports, compilation, restore
        time.sleep(rng.uniform(0, 12))
    before = lines(workdir)
    if moment in ("step", "save"):
        wait_for(process, lambda: lines(workdir) not in (0, before))
        time.sleep(rng.uniform(0, 1))
    if moment == "save":
        wait_for(process, lambda: saving(workdir))
        time.sleep(rng.uniform(0, 0.03))
    writes = saving(workdir)
    process.send_signal(number)
    return writes


def survive(process, workdir, number: signal.Signals) -> bool:
    """Whether the run lives through the signal and goes on; SIGSTOP is taken back."""
    if number == signal.SIGSTOP:
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
    time.sleep(1)
    reported = lines(workdir)
    wait_for(process, lambda: lines(workdir) != reported)
    return process.poll() is None


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


class Storm:
    """One run that is stopped again and again, and what came of it."""

    def __init__(self, workdir: pathlib.Path, options: argparse.Namespace):
        self.workdir, self.options = workdir, options
        self.place, self.newest = workdir / "checkpoints", 0
        self.kinds: collections.Counter[str] = collections.Counter()
        self.ends: collections.Counter[int] = collections.Counter()
        self.while_writing = 0  # signals that came while a checkpoint was written
        self.survived: list[str] = []
        self.faults: list[str] = []

    def stop(self, moment: str, number: signal.Signals, rng: random.Random) -> None:
        """Starts the run, sends the signal, waits for the end, looks what is left."""
        process = start(self.workdir, self.options)
        # Read on, or the run would wait for its own words.
        output: list[str] = []
        reader = threading.Thread(target=output.extend, args=(process.stdout,))
        reader.start()
        self.while_writing += kill(process, self.workdir, moment, number, rng)
        if number not in (signal.SIGKILL, signal.SIGTERM):
            if survive(process, self.workdir, number):
                self.survived.append(number.name)
                process.kill()
        process.wait(timeout=600)
        reader.join()
        self.kinds[f"{number.name} at {moment}"] += 1
        self.ends[process.returncode] += 1
        self._look(process, output)
        print(f"{number.name} at {moment}: step {self.newest} is complete", flush=True)

    def _look(self, process, output: list[str]) -> None:
        if process.returncode == 0:
            self.faults.append(f"the run was over at step {self.newest}: more --steps")
        said = [x.strip() for x in output if x.startswith("resumed from")]
        if said and said != [f"resumed from step {self.newest}"]:
            self.faults.append(f"{said[0]}, where step {self.newest} was complete")
        now = max(checkpoints.complete_steps(self.place), default=0)
        if now < self.newest:
            self.faults.append(f"step {self.newest} was complete; now it is {now}")
        self.newest = now

    def finish(self) -> None:
        """Lets the run reach its end; nothing may be left over."""
        start(self.workdir, self.options).communicate()
        if list(self.place.glob(f"*{checkpoints.UNFINISHED}*")):
            self.faults.append("temporary directories are left over")
        alive = subprocess.run(["pgrep", "-f", str(self.workdir)], capture_output=True)
        if alive.stdout:
            self.faults.append(f"processes are left over: {alive.stdout.split()}")


def main() -> None:
    """Storms, compares, writes; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--checkpoint-every", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "storm.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        calm = pathlib.Path(scratch, "calm")
        storm = Storm(pathlib.Path(scratch, "storm"), options)
        start(calm, options).communicate()
        for _ in range(options.kills):
            moment = rng.choice(["start", "step", "save"])
            storm.stop(moment, rng.choice([signal.SIGKILL, signal.SIGTERM]), rng)
        killed = storm.while_writing
        for number in SIGNALS:
            storm.stop(rng.choice(["step", "save"]), number, rng)
        storm.finish()
        pairs = list(
            zip(
                leaves(calm, options.steps),
                leaves(storm.workdir, options.steps),
                strict=True,
            )
        )
        different = sum(not np.array_equal(a, b) for a, b in pairs)
        if different:
            storm.faults.append(f"{different} of {len(pairs)} arrays differ")
    result = {
        "kills": options.kills,
        "kills_while_a_checkpoint_was_written": killed,
        "signals": [number.name for number in SIGNALS],
        "signals_that_it_lived_through": storm.survived,
        "kinds": dict(storm.kinds),
        "exit_codes": {str(code): n for code, n in storm.ends.items()},
        "steps": options.steps,
        "arrays_compared": len(pairs),
        "arrays_different": different,
        "faults": storm.faults,
    }
    write(options.out, result)
    count = f"{options.kills} kills, {len(SIGNALS)} signals"
    print(f"{count}, {different} arrays differ, faults: {storm.faults}")
    sys.exit(1 if storm.faults else 0)


if __name__ == "__main__":
    main()

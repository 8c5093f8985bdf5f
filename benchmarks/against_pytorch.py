"""A train step and a sampler step against PyTorch's, in one run, asked in turn.

    pip install 'torch==2.13.0' diffusers
    python benchmarks/against_pytorch.py --cases digits cifar10

PyTorch has diffusers' `UNet2DModel` of the same configuration with the same weights,
whose outputs and samples are compared with ours first. On a CPU everything is float32
and PyTorch runs in its default layout and in channels_last; on a GPU it is bfloat16,
and PyTorch has channels_last, autocast, fused Adam and torch.compile max-autotune.

A train step is q_sample, loss, backward, clipping, Adam and the running average; ours
also flips the images, which PyTorch's come without. A sampler step is one of DDIM's.
"""

import argparse
import os
import pathlib
import runpy
import tempfile
import time
from typing import NamedTuple

import numpy as np
from measure import keep, spread
from workers import Worker

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent / "configs"
LIMITS = {"float32": 1e-3, "bfloat16": 0.1}  # relative RMS of the outputs


class Case(NamedTuple):
    """A network at a batch size, and the steps of DDIM's walk that is timed."""

    config: str
    batch_cpu: int
    batch_gpu: int
    steps_cpu: int
    steps_gpu: int = 20


CASES = {
    "digits": Case("digits", 64, 64, 20),
    "cifar10": Case("cifar10", 8, 512, 4),
    "lsun256": Case("lsun256", 1, 16, 2),
}
# name: (channels_last, torch.compile)
PEERS = {
    "pytorch": (False, False),
    "pytorch channels_last": (True, False),
    "pytorch channels_last compiled": (True, True),
}


class Contest:
    """The workers of one case, ready to be asked; `with` ends them."""

    def __init__(self, case: Case, peers: list[str], gpu: bool, folder: str):
        self.size = case.batch_gpu if gpu else case.batch_cpu
        self.dtype = "bfloat16" if gpu else "float32"
        path = CONFIGS / f"{case.config}.py"
        config = runpy.run_path(str(path))["get_config"]()
        half = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".45"} if gpu else {}
        self.workers = {"jax": Worker(HERE / "worker_jax.py", {**os.environ, **half})}
        self.environment: dict = {}
        for name in peers:
            self.workers[name] = Worker(HERE / "worker_pytorch.py")
            self.environment |= self.workers[name].ask("environment")
        self.ours = self.workers["jax"].ask(
            "open",
            config=str(path),
            dtype=self.dtype,
            batch_size=self.size,
            steps=case.steps_gpu if gpu else case.steps_cpu,
            folder=folder,
        )
        self.environment |= self.ours["environment"]
        train = {
            "learning_rate": config.optim.learning_rate,
            "clip_norm": config.optim.clip_norm,
            "ema_decay": config.optim.ema_decay,
            "label_dropout": config.diffusion.label_dropout,
            "null_label": config.data.num_classes,
        }
        self.theirs = {}
        for name in peers:
            last, compiled = PEERS[name]
            self.theirs[name] = self.workers[name].ask(
                "open",
                folder=folder,
                channels_last=last,
                compiled=compiled,
                dtype=self.dtype,
                train=train,
            )
            self._hold_agreement(name)

    def _hold_agreement(self, name: str) -> None:
        for what, error in self.theirs[name]["agreement"].items():
            if not error < LIMITS[self.dtype]:
                raise SystemExit(
                    f"the networks are not the same function: the {what} of {name} is "
                    f"{error:.2g} off, relative RMS"
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers.values():
            worker.close()

    def rounds(self, step: str, count: int, seconds: float, end: float) -> dict:
        """Milliseconds of each worker and round; the first round is not counted."""
        told = {name: w.ask("prepare", step=step) for name, w in self.workers.items()}
        times: dict[str, list[float]] = {name: [] for name in self.workers}
        for turn in range(count + 1):
            if turn > 1 and time.monotonic() > end:
                break
            for name, worker in self.workers.items():
                ms = worker.ask("turn", step=step, seconds=seconds)["ms"]
                if turn:
                    times[name].append(ms)
        return summary(times) | {"prepared": told}


def summary(times: dict[str, list[float]]) -> dict:
    """Medians and quartiles, and ours over the faster of the peers, round by round."""
    result: dict = {
        name: spread(np.array(ms)) | {"ms": ms} for name, ms in times.items()
    }
    peers = [name for name in times if name != "jax"]
    faster = min(peers, key=lambda name: result[name]["median_ms"])
    ratio = np.array(times["jax"]) / np.array(times[faster])
    low, median, high = np.percentile(ratio, [25, 50, 75])
    result["faster_peer"] = faster
    result["ratio"] = {"median": median, "low": low, "high": high, "rounds": [*ratio]}
    return result


def show(case: str, step: str, result: dict) -> None:
    """One line of the table for each worker."""
    for name in result["prepared"]:
        row = result[name]
        print(
            f"{case:8} {step:7} {name:31} {row['median_ms']:9.2f} ms "
            f"({row['low_ms']:.2f} to {row['high_ms']:.2f})"
        )
    ratio = result["ratio"]
    print(
        f"{case:8} {step:7} jax over {result['faster_peer']}: {ratio['median']:.3f} "
        f"({ratio['low']:.3f} to {ratio['high']:.3f}), {len(ratio['rounds'])} rounds",
        flush=True,
    )


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, help="default: all that are not too slow"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=("train", "sample"), default=["train", "sample"]
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds-per-turn", type=float, default=2.0)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="after which no round begins"
    )
    parser.add_argument("--gpu", action="store_true", help="on one GPU, in bfloat16")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    plain, last, compiled = PEERS
    peers = options.peers or ([compiled] if options.gpu else [plain, last])
    cases = options.cases or [*CASES][: None if options.gpu else 2]
    name = f"against_pytorch_{'gpu' if options.gpu else 'cpu'}.json"
    for name_of_case in cases:
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[name_of_case]
            with Contest(case, peers, options.gpu, folder) as contest:
                for step in options.steps:
                    found = contest.rounds(
                        step, options.rounds, options.seconds_per_turn, end
                    )
                    show(name_of_case, step, found)
                    found |= {
                        "batch_size": contest.size,
                        "dtype": contest.dtype,
                        "agreement": {
                            p: told["agreement"] for p, told in contest.theirs.items()
                        },
                        "environment": contest.environment,
                    }
                    keep(
                        options.out or HERE / "results" / name,
                        name_of_case,
                        {"parameters": contest.ours["parameters"], step: found},
                    )


if __name__ == "__main__":
    main()

"""Bits per dimension of a trained model over a data set.

    python -m ddpm_jax.evaluation.likelihood --workdir runs/digits

prints the variational bound on the test split with its standard error, and writes the
terms of every step, with a plot of them, into WORKDIR/likelihood or --out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import dataclasses
import json
import math
import pathlib
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax import build, processes
from ddpm_jax.checks import check_count, check_options
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays
from ddpm_jax.diffusion.likelihood import BitsPerDim
from ddpm_jax.evaluation.likelihood.bound import evaluate, summary
from ddpm_jax.files import whole_file
from ddpm_jax.loading import load
from ddpm_jax.ownership import claimed
from ddpm_jax.progress import watched
from ddpm_jax.streams import outlive_readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The variational bound of a run's weights, in bits per dimension."""

    workdir: Path  # the run
    out: Path | None = None  # where to write; None = WORKDIR/likelihood
    split: str | None = None  # of its data; None = its test split
    num: int | None = None  # the first so many images; None = all
    batch_size: int = 128  # the result does not depend on it
    steps: int | None = None  # bound of a chain respaced to so many steps; None = all
    seed: int = 0  # of the noise
    weights: Literal["ema", "raw"] = "ema"  # a run's average, or what it averages
    distributed: processes.Distributed = dataclasses.field(
        default_factory=processes.Distributed
    )

    def __post_init__(self):
        check_options(self)
        for name in ("num", "batch_size", "steps"):
            check_count(f"--{name.replace('_', '-')}", getattr(self, name))


def plot_terms(path: pathlib.Path, bound: BitsPerDim, timesteps: np.ndarray) -> None:
    """The mean term of the bound at every step, on a logarithmic scale, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    mean = bound.terms.mean(0)
    axes.plot(timesteps, mean, color="tab:blue", linewidth=1.5)
    axes.plot(timesteps[0], mean[0], "o", color="tab:orange", label="decoder")
    axes.set(
        yscale="log",
        xlabel="step t",
        ylabel="term of the bound (bits/dim)",
        title=f"{bound.total.mean():.3f} bits/dim over {len(bound.total)} images",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=130)


def main(options: Options) -> None:
    """Evaluates, prints, writes; finds out first whether it can write.

    Raises:
        ValueError, OSError, ImportError: what the run, its data or `--out` raise.
    """
    model = load(options.workdir, weights=options.weights, agree=processes.agree)
    config = model.config
    if options.split is not None and config.data.source == "folder":
        raise ValueError(f"a folder has no splits; got --split {options.split}")
    split = options.split or config.data.test_split
    data = processes.main_first("data", lambda: _load(config.data, split, options.num))
    schedule = build.make_schedule(config.diffusion.schedule, steps=options.steps)
    key, size = jax.random.key(options.seed), options.batch_size
    out = options.out or options.workdir / "likelihood"
    with claimed(out):
        bound = evaluate(key, model, schedule, data, batch_size=size)
        if processes.is_main():
            print(_result(summary(bound), data.name), flush=True)
            _write(out, bound, np.asarray(schedule.timesteps))
            print(f"terms in {out}")
        processes.barrier("written")  # who leaves first would end a main that writes


def _result(result: dict[str, float], name: str) -> str:
    error = result["standard_error"]
    spread = f" +- {error:.4f}" if math.isfinite(error) else ""
    return (
        f"{result['bits_per_dim']:.4f}{spread} bits/dim over {result['images']} images "
        f"of {name} (decoder {result['decoder']:.4f}, prior {result['prior']:.2g})"
    )


def _write(out: pathlib.Path, bound: BitsPerDim, timesteps: np.ndarray) -> None:
    """The terms, their summary and a plot as files."""
    with whole_file(out / "terms.npz") as file:
        np.savez_compressed(file, timesteps=timesteps, **bound._asdict())
    with whole_file(out / "bits_per_dim.json") as file:
        # JSON has no word for what is not finite.
        values = {k: x if math.isfinite(x) else None for k, x in summary(bound).items()}
        file.write((json.dumps(values, indent=2) + "\n").encode())
    try:
        plot_terms(out / "terms.png", bound, timesteps)
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'ddpm_jax[plots]')")


def _load(config: DataConfig, split: str, num: int | None) -> ImageArrays:
    """The first `num` images of a split, all of them if None."""
    whole: Any
    if config.resident:
        whole = build.load_images(config, split)
    else:
        whole = build.open_images(config, split)
    if num is None:
        num = len(whole)
    if not 1 <= num <= len(whole):
        raise ValueError(f"--num must lie in 1..{len(whole)}; got {num}")
    reading = tqdm(range(num), desc="images", leave=False, disable=not watched())
    examples = [whole[i] for i in reading]
    labels = None
    if whole.label_names:
        labels = np.stack([example["label"] for example in examples])
    return ImageArrays(
        images=np.stack([example["image"] for example in examples]),
        labels=labels,
        name=whole.name,
        label_names=whole.label_names,
    )


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog="python -m ddpm_jax.evaluation.likelihood")
        processes.start(options.distributed)
        processes.end_on_sigterm()
        prepare_jax()
        main(options)

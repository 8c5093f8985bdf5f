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
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from ddpm_jax import build, processes
from ddpm_jax.checks import check_count, check_options
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion.likelihood import BitsPerDim, bits_per_dim
from ddpm_jax.diffusion.noise import fold_in
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.files import whole_file
from ddpm_jax.loading import load
from ddpm_jax.mesh import BATCH_AXES, make_mesh
from ddpm_jax.model import Model
from ddpm_jax.ownership import claimed
from ddpm_jax.progress import Progress, watched
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


def evaluate(
    key: jax.Array,
    model: Model,
    schedule: Schedule,
    data: ImageArrays,
    *,
    batch_size: int = 128,
) -> BitsPerDim:
    """The bound of every image, as NumPy arrays of (n,) and (n, T). Consumes `key`.

    Batches are shared out to the processes, and each divides its own over its devices.
    Image i has noise of its own, so the result depends neither on the batch size nor on
    them. A class-conditional model is given the labels.
    """
    mesh = make_mesh(jax.local_devices())
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    whole = NamedSharding(mesh, PartitionSpec())
    model, schedule = jax.device_put((model, schedule), whole)
    labels = data.labels if model.config.data.num_classes is not None else None

    @jax.jit
    def bound(model: Model, schedule: Schedule, keys, images, labels) -> BitsPerDim:
        denoise = model.denoiser(labels)
        return bits_per_dim(keys, denoise, schedule, to_float(images))

    process, count = jax.process_index(), jax.process_count()
    devices = jax.local_device_count()
    size = -(-min(batch_size, data.num_examples) // devices) * devices
    batches = -(-data.num_examples // size)
    rounds = -(-batches // count)
    parts = []
    progress = Progress(
        rounds, "batch", images_per_unit=size * count, shown=process == 0
    )
    for turn in range(rounds):
        # All have the same number of batches of the same size, so that one program
        # serves all; what lies beyond the last image repeats it.
        first = (turn * count + process) * size
        index = np.minimum(np.arange(first, first + size), data.num_examples - 1)
        keys = jax.vmap(fold_in, in_axes=(None, 0))(key, index)
        own = None if labels is None else labels[index]
        batch = jax.device_put((keys, data.images[index], own), divided)
        parts.append(jax.device_get(bound(model, schedule, *batch)))
        progress.reach(turn + 1)
    progress.close()

    def together(*mine: np.ndarray) -> np.ndarray:
        own = np.stack(mine)  # (rounds, size, ...)
        if count > 1:  # (count, rounds, size, ...)
            own = multihost_utils.process_allgather(own).swapaxes(0, 1)
        return own.reshape(-1, *mine[0].shape[1:])[: data.num_examples]

    return jax.tree.map(together, *parts)


def standard_error(values: np.ndarray | jax.Array) -> float:
    """Of the mean of independent values; NaN for a single one."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def summary(bound: BitsPerDim) -> dict[str, float]:
    """The mean bound over images and its parts, in bits per dimension."""
    return {
        "bits_per_dim": float(bound.total.mean()),
        "standard_error": standard_error(bound.total),
        "prior": float(bound.prior.mean()),
        "divergences": float(bound.terms[:, 1:].sum(1).mean()),
        "decoder": float(bound.terms[:, 0].mean()),
        "images": len(bound.total),
    }


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

"""Bits per dimension of a trained model over a data set.

    python -m ddpm_jax.evaluation.likelihood --workdir runs/digits

prints the variational bound on the test split with its standard error, and writes the
terms of every step, with a plot of them, into WORKDIR/likelihood.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from ddpm_jax import build
from ddpm_jax.command import one_line_errors, use_compilation_cache
from ddpm_jax.data import ImageArrays, to_float
from ddpm_jax.diffusion.likelihood import BitsPerDim, bits_per_dim
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.pipeline import Model, load
from ddpm_jax.training.parallel import BATCH_AXES, make_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The variational bound of a run's averaged weights, in bits per dimension."""

    workdir: pathlib.Path  # the run
    split: str | None = None  # of its data; None = its test split
    num: int | None = None  # the first so many images; None = all
    batch_size: int = 128  # the result does not depend on it
    steps: int | None = None  # bound of a chain respaced to so many steps; None = all
    seed: int = 0  # of the noise


def evaluate(
    key: jax.Array,
    model: Model,
    schedule: Schedule,
    data: ImageArrays,
    *,
    batch_size: int = 128,
) -> BitsPerDim:
    """The bound of every image, as NumPy arrays of (n,) and (n, T). Consumes `key`.

    Batches are divided over all devices. Image i has noise of its own, so the result
    does not depend on the batch size or the devices. A class-conditional model is
    given the labels.
    """
    diffusion = model.config.diffusion
    mesh = make_mesh()
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    whole = NamedSharding(mesh, PartitionSpec())
    model, schedule = jax.device_put((model, schedule), whole)
    labels = data.labels if model.config.data.num_classes is not None else None

    @jax.jit
    def bound(model: Model, schedule: Schedule, keys, images, labels) -> BitsPerDim:
        return bits_per_dim(
            keys,
            build.denoiser(model.network, model.params, labels),
            schedule,
            to_float(images),
            predict=build.PREDICT[diffusion.predict],
            variance=build.VARIANCE[diffusion.variance],
        )

    devices = jax.device_count()
    size = -(-min(batch_size, data.num_examples) // devices) * devices
    parts = []
    bar = tqdm(total=data.num_examples, unit="image", desc="bits/dim")
    for first in range(0, data.num_examples, size):
        # The last batch is filled up with repeats, so that one program serves all.
        index = np.minimum(np.arange(first, first + size), data.num_examples - 1)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
        own = None if labels is None else labels[index]
        batch = jax.device_put((keys, data.images[index], own), divided)
        part = jax.device_get(bound(model, schedule, *batch))
        count = min(size, data.num_examples - first)
        parts.append(jax.tree.map(lambda x, count=count: x[:count], part))
        bar.update(count)
    bar.close()
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def standard_error(values: np.ndarray | jax.Array) -> float:
    """Of the mean of independent values; NaN for a single one."""
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
    figure.savefig(path, dpi=130)


def main(options: Options) -> None:
    """Evaluates, prints, writes."""
    model = load(options.workdir)
    config = model.config
    data = build.load_images(config.data, options.split or config.data.test_split)
    if options.num is not None:
        if not 1 <= options.num <= data.num_examples:
            raise ValueError(
                f"--num must lie in 1..{data.num_examples}; got {options.num}"
            )
        labels = None if data.labels is None else data.labels[: options.num]
        images = data.images[: options.num]
        data = dataclasses.replace(data, images=images, labels=labels)
    schedule = build.make_schedule(config.diffusion.schedule, steps=options.steps)
    bound = evaluate(
        jax.random.key(options.seed),
        model,
        schedule,
        data,
        batch_size=options.batch_size,
    )
    out = options.workdir / "likelihood"
    out.mkdir(exist_ok=True)
    result = summary(bound)
    timesteps = np.asarray(schedule.timesteps)
    np.savez_compressed(out / "terms.npz", timesteps=timesteps, **bound._asdict())
    (out / "bits_per_dim.json").write_text(json.dumps(result, indent=2) + "\n")
    try:
        plot_terms(out / "terms.png", bound, timesteps)
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'ddpm_jax[plots]')")
    print(
        f"{result['bits_per_dim']:.4f} +- {result['standard_error']:.4f} bits/dim over "
        f"{result['images']} images of {data.name} (decoder {result['decoder']:.4f}, "
        f"prior {result['prior']:.2g}); terms in {out}"
    )


if __name__ == "__main__":
    with one_line_errors():
        use_compilation_cache()
        main(tyro.cli(Options))

"""Trains the classifier in whose features samples of a data set are measured.

    python -m ddpm_jax.evaluation.classifier --workdir runs/fashion

of the labelled data of a run, or of any that `--data.*` names, as for train.py.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import dataclasses
import pathlib

import jax
import numpy as np

from ddpm_jax import build, loading
from ddpm_jax.checks import check_count, check_options
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.config import DataConfig
from ddpm_jax.data import ImageArrays
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.streams import outlive_readers

HOLD_OUT = 10  # of a set without a test split, every so many images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a small classifier of a labelled data set and keeps it."""

    workdir: Path | None = None  # a run of the data; None = as --data.* says
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    out: Path | None = None  # the file; None = among the downloaded weights
    num_steps: int = 2000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self):
        check_options(self)
        if self.workdir is not None and self.data != DataConfig():
            raise ValueError("--workdir names the data, or --data.* does; got both")
        check_count("--num-steps", self.num_steps)
        check_count("--batch-size", self.batch_size)


def main(options: Options) -> pathlib.Path:
    """Trains, tells how well, writes; returns where.

    Raises:
        ValueError, OSError, ImportError: what the run, its data or `--out` raise.
    """
    data = options.data
    if options.workdir is not None:
        data = loading.load(options.workdir).config.data
    train, test = splits(data)
    params = classifier.train(
        jax.random.key(options.seed),
        train,
        num_steps=options.num_steps,
        batch_size=options.batch_size,
    )
    features, _ = classifier.judge(params, train)
    _, told = classifier.judge(params, test)
    facts = classifier.Facts(
        data=classifier.data_name(data),
        shape=train.image_shape,
        classes=train.num_classes or 0,
        accuracy=float(np.mean(told == test.labels)),
        scale=float(np.sqrt(np.mean(features.astype(np.float64) ** 2))),
    )
    path = options.out or classifier.kept_at(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(path, params, facts)
    print(f"{facts.accuracy:.2%} of {len(test)} held-out images told; wrote {path}")
    return path


def splits(data: DataConfig) -> tuple[ImageArrays, ImageArrays]:
    """What is trained on, and what the accuracy is measured on.

    Raises:
        ValueError: if the images have no labels.
    """
    train = build.load_images(data, data.split)
    if train.labels is None:
        raise ValueError(
            f"a classifier learns from labels; {train.name} has none (with "
            "data.num_classes=None they are not read)"
        )
    if data.source != "folder" and data.test_split != data.split:
        return train, build.load_images(data, data.test_split)
    labels = train.labels
    held_out = np.arange(len(train)) % HOLD_OUT == HOLD_OUT - 1

    def part(keep: np.ndarray) -> ImageArrays:
        chosen = {"images": train.images[keep], "labels": labels[keep]}
        return dataclasses.replace(train, **chosen)

    return part(~held_out), part(held_out)


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog="python -m ddpm_jax.evaluation.classifier")
        prepare_jax()
        main(options)

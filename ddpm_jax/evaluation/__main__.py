"""Measures a model's samples, or any images, by a protocol of the field.

    python -m ddpm_jax.evaluation --workdir runs/digits --sampler ddim --steps 20
    python -m ddpm_jax.evaluation --workdir runs/cifar10 --protocol openai \\
        --reference VIRTUAL_cifar10.npz
    python -m ddpm_jax.evaluation --images samples.npz --reference real_images

prints a table and writes it as JSON, with all that the figures depend on.
docs/evaluation.md says which metric to use when.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jax
import tyro

from ddpm_jax import build, drawing, loading, processes
from ddpm_jax.checks import check_count, check_options
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.evaluation import networks, references, report, self_test
from ddpm_jax.evaluation.classifier.network import data_name
from ddpm_jax.evaluation.generated import Given, Samples
from ddpm_jax.evaluation.image_sets import open_set
from ddpm_jax.evaluation.likelihood import bound
from ddpm_jax.evaluation.measure import Value, measure, observe
from ddpm_jax.evaluation.protocols import PROTOCOLS, Protocol, usual
from ddpm_jax.model import Model
from ddpm_jax.ownership import claimed
from ddpm_jax.streams import outlive_readers

# The keys of `PROTOCOLS`.
ProtocolName = Literal[
    "classifier", "openai", "ttur", "pytorch-fid", "clean-fid", "edm", "edm2-dinov2"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw(drawing.Draw):
    """Samples of each seed, and how they are drawn."""

    num: int | None = None  # type: ignore[assignment]  # None = the protocol's
    batch_size: int = 256  # drawn at a time; the images do not depend on it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measures samples against real images, by a protocol of the field.

    Killed, the same command goes on where it was. Many processes share the work.
    """

    workdir: Path | None = None  # a run, or a folder of weights: samples are drawn
    step: int | None = None  # which of its checkpoints; None = the newest
    images: Path | None = None  # or images that are there: a folder, or an .npz
    # A split of the run's data, a folder, an .npz of images, or a file of statistics
    # (.npz, .pkl); None = what the run was trained on
    reference: str | None = None
    reference_flip: bool = False  # also the mirror image of every one of a split
    # How it is measured; None = openai, or classifier where Inception sees nothing
    protocol: ProtocolName | None = None
    metrics: tuple[str, ...] | None = None  # None = the protocol's, and more
    # The feature network's weights, or a classifier's file; None = the published ones
    # (in the cache, or downloaded), or the data set's classifier
    features: Path | None = None
    draw: Annotated[Draw, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Draw
    )
    seeds: int = 3  # sets of samples, of --seed and the seeds after it
    likelihood: bool = False  # also bits per dimension of the run's test split
    published: float | None = None  # compare the first metric with this figure
    save_reference: Path | None = None  # also write the reference's statistics
    out: Path | None = None  # where; None = WORKDIR/evaluation, or beside the images
    self_test: bool = False  # nothing but known statistics in, known values out
    distributed: processes.Distributed = dataclasses.field(
        default_factory=processes.Distributed
    )

    def __post_init__(self):
        check_options(self)
        check_count("--seeds", self.seeds)
        if not self.self_test and (self.workdir is None) == (self.images is None):
            got = "neither" if self.images is None else "both"
            raise ValueError(
                f"--workdir or --images says what is measured, one of them; got {got}"
            )
        for name in ("likelihood", "step"):
            if getattr(self, name) and self.workdir is None:
                raise ValueError(f"--{name} is a model's: it needs --workdir")
        if self.images is not None and self.reference is None:
            raise ValueError("--images needs --reference to be measured against")
        if self.published is not None and not self.published > 0:
            raise ValueError(f"--published must be above 0; got {self.published}")


def main(options: Options) -> list[report.Row]:
    """Measures, prints, writes; returns the rows of the table.

    Raises:
        ValueError, OSError, ImportError: what the model, images, reference and weights
            raise.
    """
    if options.self_test:
        _test_itself()
        return []
    self_test.check_compiler()
    if options.images is None:
        assert options.workdir is not None
        beside = options.workdir
    else:
        beside = options.images.resolve().parent
    out = options.out or beside / "evaluation"
    with claimed(out):
        rows = _evaluate(options, out)
        processes.barrier("written")  # who leaves first would end a main that writes
    return rows


def _test_itself() -> None:
    """Prints the table of the self-test.

    Raises:
        ValueError: if a value is not the one that is known.
    """
    checks = self_test.self_test()
    print("| check | value | known | |\n|---|---|---|---|")
    for check in checks:
        verdict = "ok" if check.ok else "WRONG"
        print(
            f"| {check.name} | {check.value:.6g} | {check.expected:.6g} | {verdict} |"
        )
    wrong = [check.name for check in checks if not check.ok]
    if wrong:
        raise ValueError(f"the self-test fails: {'; '.join(wrong)}")


def _evaluate(options: Options, out: pathlib.Path) -> list[report.Row]:
    began = time.perf_counter()
    model = _model(options)
    data = None if model is None else model.config.data
    real = references.find(options.reference, data, flip=options.reference_flip)
    subject, protocol = _subject(options, model, out)
    names = options.metrics or (*protocol.metrics, *protocol.extra)
    optional = () if options.metrics else protocol.extra
    set_name = "" if data is None else data_name(data)
    network, distance = networks.load(protocol, options.features, set_name)
    known = references.observe_real(network, real, protocol, names, subject.image_shape)
    if options.save_reference is not None and processes.is_main():
        references.keep(options.save_reference, known, protocol)

    values: dict[str, list[Value]] = {}
    missing: dict[str, str] = {}
    for images in subject.sets():
        observed = observe(network, images, protocol, names, reference=False)
        found, missing = measure(
            observed, known.measured, protocol, names, optional=optional
        )
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    if options.likelihood and model is not None:
        values[report.BITS] = [_likelihood(options, model)]

    rows = [
        report.summarise(name, report.shown(name, distance), found)
        for name, found in values.items()
    ]
    dimension = max((len(x.mean) for x in observed.gaussians.values()), default=0)
    notes = report.notes(protocol, rows, subject.num, dimension, network)
    notes += [f"{name} is not measured: {why}" for name, why in missing.items()]
    if options.published is not None:
        notes.append(report.comparison(rows[0], options.published))
    record = {
        "metrics": {row.name: row._asdict() for row in rows},
        "protocol": protocol.facts(),
        "network": report.network_facts(network),
        "reference": known.facts,
        "samples": subject.facts(),
        "notes": notes,
        **report.environment(),
        "seconds": time.perf_counter() - began,
    }
    if processes.is_main():
        path = out / f"{_file_name(options, protocol, model)}.json"
        report.write(path, record)
        subject.remove()
        print(report.page(record, rows, notes))
        print(f"written to {path}", flush=True)
    return rows


def _model(options: Options) -> Model | None:
    if options.workdir is None:
        return None
    return loading.load(
        options.workdir,
        step=options.step,
        weights=options.draw.weights,
        agree=processes.agree,
    ).over_local_devices()


def _subject(
    options: Options, model: Model | None, out: pathlib.Path
) -> tuple[Given | Samples, Protocol]:
    """What is measured, and how."""
    if model is None:
        assert options.images is not None
        given = Given(open_set(options.images, options.draw.num))
        return given, PROTOCOLS[options.protocol or usual(given.image_shape)]
    protocol = PROTOCOLS[options.protocol or usual(model.image_shape)]
    draw = dataclasses.replace(options.draw, num=options.draw.num or protocol.num)
    folder = out / "unfinished"
    return Samples(model, draw, options.seeds, folder, protocol.rounding), protocol


def _likelihood(options: Options, model: Model) -> Value:
    """Bits per dimension of the test split, with their standard error."""
    data = model.config.data
    split = data.split if data.source == "folder" else data.test_split
    images = build.load_images(data, split)
    key = jax.random.key(options.draw.seed)
    terms = bound.evaluate(key, model, model.schedule, images)
    found = bound.summary(terms)
    return Value(found["bits_per_dim"], found["standard_error"])


def _file_name(options: Options, protocol: Protocol, model: Model | None) -> str:
    """One for each way of drawing, so that none takes another's place."""
    if model is None:
        assert options.images is not None
        return f"{protocol.name}_{options.images.stem}"
    draw = options.draw
    parts = [protocol.name, draw.sampler, f"{draw.steps or 'all'}_steps"]
    parts += [f"{name}_{x}" for name, x in _unusual(draw)]
    return "_".join([*parts, f"at_{model.step}"])


def _unusual(draw: Draw) -> Iterator[tuple[str, Any]]:
    names = ("spacing", "lambda_min", "eta", "rederive", "guidance", "weights")
    for name in names:
        if (value := getattr(draw, name)) != getattr(Draw(), name):
            yield name, value


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog="python -m ddpm_jax.evaluation")
        processes.start(options.distributed)
        processes.end_on_sigterm()
        prepare_jax()
        main(options)

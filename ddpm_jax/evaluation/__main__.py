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
from ddpm_jax.data import ImageArrays
from ddpm_jax.evaluation import networks, references, report, self_test
from ddpm_jax.evaluation.generated import Given, Samples
from ddpm_jax.evaluation.image_sets import open_set
from ddpm_jax.evaluation.likelihood import bound
from ddpm_jax.evaluation.measure import Value, check_possible, measure, observe
from ddpm_jax.evaluation.protocols import PROTOCOLS, Protocol, usual
from ddpm_jax.evaluation.statistics import check_suffix
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
    reference_flip: bool = False  # also the mirror image of every one
    # How it is measured; None = openai, or classifier where Inception sees nothing
    protocol: ProtocolName | None = None
    metrics: tuple[str, ...] | None = None  # None = the protocol's, and more
    # The feature network's weights, or a classifier's file; None = the published ones
    # (in the cache, or downloaded), or the classifier of the run's data set
    features: Path | None = None
    draw: Annotated[Draw, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Draw
    )
    seeds: int = 3  # sets of samples, of --seed and the seeds after it
    keep_samples: bool = False  # so that a next evaluation of the same draws none
    likelihood: bool = False  # also bits per dimension of the run's test split
    # A paper's figure of the Frechet distance (or the first of --metrics), to compare
    published: float | None = None
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
        if self.images is not None:
            self._check_images()
        if self.save_reference is not None:
            check_suffix(self.save_reference)
        if self.published is not None and not self.published > 0:
            raise ValueError(f"--published must be above 0; got {self.published}")

    def _check_images(self) -> None:
        """Holds that nothing is told of how images were drawn that are there."""
        if self.reference is None:
            raise ValueError("--images needs --reference to be measured against")
        usual, draw = Options(self_test=True), Draw(num=self.draw.num)
        names = ("step", "seeds", "likelihood", "keep_samples")
        told = [name for name in names if getattr(self, name) != getattr(usual, name)]
        told += [
            item.name
            for item in dataclasses.fields(draw)
            if getattr(self.draw, item.name) != getattr(draw, item.name)
        ]
        if told:
            option = told[0].replace("_", "-")
            raise ValueError(f"--{option} is of samples that are drawn: --workdir")


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
    # What is measured, by which protocol, against what.
    model = _model(options)
    data = None if model is None else model.config.data
    subject, protocol = _subject(options, model, out)
    names = options.metrics or (*protocol.metrics, *protocol.extra)
    optional = () if options.metrics else protocol.extra
    network, distance = networks.load(protocol, options.features, data)
    real = references.find(
        options.reference,
        data,
        flip=options.reference_flip,
        held_out="memorisation" in names,
    )
    known = references.observe_real(network, real, protocol, names, subject.image_shape)
    check_possible(known.measured, protocol, names, optional=optional)
    unseen = _unseen(options, model)
    if options.save_reference is not None and processes.is_main():
        references.keep(options.save_reference, known, protocol, network)

    # The samples, set by set; nothing of one is held while the next is drawn.
    values: dict[str, list[Value]] = {}
    missing: dict[str, str] = {}
    dimension = 0
    for images in subject.sets():
        observed = observe(network, images, protocol, names, reference=False)
        dimension = max((len(x.mean) for x in observed.gaussians.values()), default=0)
        found, missing = measure(
            observed, known.measured, protocol, names, optional=optional
        )
        del observed
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    bits: dict[str, Any] = {}
    if model is not None and unseen is not None:
        values[report.BITS] = [_likelihood(options, model, unseen)]
        bits = {"likelihood of": {"set": unseen.name, "n": len(unseen)}}

    # What is said of it.
    rows = [
        report.summarise(name, report.shown(name, distance), found)
        for name, found in values.items()
    ]
    counts = {"samples": subject.num, "reference images": known.facts.get("n")}
    notes = report.notes(protocol, rows, counts, dimension, network)
    notes += [f"{name} is not measured: {why}" for name, why in missing.items()]
    if options.published is not None:
        row = report.compared(rows, first=options.metrics is not None)
        notes.append(report.comparison(row, options.published))
    record = {
        "metrics": {row.name: row._asdict() for row in rows},
        "protocol": protocol.facts(),
        "network": report.network_facts(network),
        "reference": known.facts,
        "samples": subject.facts(),
        **bits,
    }
    path = out / f"{_file_name(options, protocol, model)}_{report.digest(record)}.json"
    record |= {"notes": notes, **report.environment()}
    record["seconds"] = time.perf_counter() - began
    processes.barrier("measured")  # others may still read the samples
    if processes.is_main():
        report.write(path, record)
        if not options.keep_samples:
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


def _unseen(options: Options, model: Model | None) -> ImageArrays | None:
    """The test split, if its likelihood is wanted.

    Raises:
        ValueError, OSError, ImportError: if there is none.
    """
    if not options.likelihood or model is None:
        return None
    data = model.config.data
    if data.source == "folder":
        raise ValueError(
            "--likelihood is that of a test split, and a folder has none; python -m "
            "ddpm_jax.evaluation.likelihood measures the images that were trained on"
        )
    return processes.main_first(
        "test", lambda: build.load_images(data, data.test_split)
    )


def _likelihood(options: Options, model: Model, unseen: ImageArrays) -> Value:
    """Bits per dimension, with their standard error."""
    key = jax.random.key(options.draw.seed)
    found = bound.summary(bound.evaluate(key, model, model.schedule, unseen))
    return Value(found["bits_per_dim"], found["standard_error"])


def _file_name(options: Options, protocol: Protocol, model: Model | None) -> str:
    """What a person looks for; `report.digest` tells one from another."""
    if model is None:
        assert options.images is not None
        images = options.images.resolve()
        return f"{protocol.name}_{images.stem if images.is_file() else images.name}"
    draw = options.draw
    parts = [protocol.name, draw.sampler, f"{draw.steps or 'all'}_steps"]
    parts += [f"{name}_{x}" for name, x in _unusual(draw)]
    return "_".join([*parts, f"at_{model.step}"])


def _unusual(draw: Draw) -> Iterator[tuple[str, Any]]:
    names = ("spacing", "lambda_min", "eta", "rederive", "guidance", "weights")
    for name in names:
        if (value := getattr(draw, name)) != getattr(Draw(), name):
            yield name, value


def run(prog: str) -> None:
    """Is the program of that name, from the command line to the exit code."""
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog=prog)
        processes.start(options.distributed)
        processes.end_on_sigterm()
        prepare_jax()
        main(options)


if __name__ == "__main__":
    run("python -m ddpm_jax.evaluation")

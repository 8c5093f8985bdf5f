"""Draws images from a trained model: ddpm-sample --workdir runs/digits."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

import ddpm_jax
from ddpm_jax import drawing, processes
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.profiling import check_profile, trace_walk
from ddpm_jax.streams import outlive_readers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Draws images from the weights of a run, as a PNG grid.

    Killed, the same command goes on where it was. Many processes share the work.
    """

    workdir: Path  # the run, or a folder of weights
    out: Path | None = None  # where to write; None = WORKDIR/drawn
    draw: Annotated[drawing.Draw, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=drawing.Draw
    )
    png: bool = False  # also write every image as a PNG
    npz: bool = False  # also write samples.npz: uint8 (num, h, w, c)
    strip: bool = False  # also write the reverse chain of 8 images side by side
    gif: bool = False  # also write the reverse chain of the first batch, moving
    # First trace so many steps of the sampler on a batch, compiled before, into
    # OUT/profile; None = none
    profile: int | None = None
    distributed: processes.Distributed = dataclasses.field(
        default_factory=processes.Distributed
    )

    def __post_init__(self):
        check_profile(self.profile)
        if self.draw.num > drawing.SHOWN and not (self.png or self.npz):
            raise ValueError(
                f"a grid holds {drawing.SHOWN} images: --num {self.draw.num} needs "
                "--npz or --png"
            )


def main(options: Options) -> None:
    """Loads, draws, writes."""
    draw = options.draw
    model = ddpm_jax.load(
        options.workdir, weights=draw.weights, agree=processes.agree
    ).over_local_devices()
    walk, steps, origin = drawing.walk_of(model, draw)
    out = options.out or options.workdir / "drawn"
    origin = {"workdir": str(options.workdir), **origin}
    check_profile(options.profile, steps)
    if options.profile is not None and processes.is_main():
        traced = drawing.walk_by(model, draw, options.profile)
        first = lambda: traced(0, min(draw.num, draw.batch_size))  # noqa: E731
        print(trace_walk(out / "profile", first, options.profile), flush=True)
    wanted = {x: getattr(options, x) for x in ("png", "npz", "strip", "gif")}
    beside = drawing.draw_into(out, walk, draw, steps, origin, **wanted)
    if processes.is_main():
        print(f"drew {draw.num} images from step {model.step} into {out}{beside}")


def run() -> None:
    """Is the program, from the command line to the exit code."""
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog=pathlib.Path(sys.argv[0]).name)
        processes.start(options.distributed)
        processes.end_on_sigterm()
        prepare_jax()
        main(options)

"""Draws the figures of a run: python -m ddpm_jax.figures NAME --workdir runs/digits."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ddpm_jax.checks import check_options
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.figures import (
    bound,
    forward,
    guidance,
    img2img,
    inpainting,
    interpolation,
    parametrisations,
    sampling,
    schedules,
    steps,
    style,
    variance,
)
from ddpm_jax.figures.subject import Subject, open_subject
from ddpm_jax.ownership import claimed
from ddpm_jax.streams import outlive_readers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OF_A_RUN: dict[str, Callable[[Subject], "Figure"]] = {
    "forward": forward.draw,
    "parametrisations": parametrisations.draw,
    "sampling": sampling.draw,
    "guidance": guidance.draw,
    "interpolation": interpolation.draw,
    "inpainting": inpainting.draw,
    "img2img": img2img.draw,
    "steps": steps.draw,
    "bound": bound.draw,
    "variance": variance.draw,
}
NAMES = ("schedules", *OF_A_RUN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Draws a figure of the method, or all of them, as PNG files."""

    name: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="NAME", help=f"all, or one of {', '.join(NAMES)}"),
    ]
    workdir: Path = pathlib.Path("runs/digits")  # the run
    out: Path = pathlib.Path("docs/figures")  # where to write NAME.png
    seed: int = 0  # of the noise, and of which images are shown
    num: int = 128  # images that steps, bound and variance measure
    weights: Literal["ema", "raw"] = "ema"  # the run's average, or what it averages

    def __post_init__(self):
        check_options(self)


def main(options: Options) -> None:
    """Draws and writes; of `all`, a figure that the run cannot give is left out.

    Raises:
        ValueError: if there is no such figure, or the run cannot give the one named.
    """
    if options.name not in ("all", *NAMES):
        raise ValueError(
            f"a figure must be all or one of {', '.join(NAMES)}; got {options.name!r}"
        )
    wanted = NAMES if options.name == "all" else (options.name,)
    style.new_figure(1)  # without matplotlib there is nothing to wait for
    subject = None
    if wanted != ("schedules",):
        how: dict[str, Any] = {
            "seed": options.seed,
            "num": options.num,
            "weights": options.weights,
        }
        subject = open_subject(options.workdir, **how)
    with claimed(options.out):
        for name in wanted:
            try:
                if name == "schedules" or subject is None:
                    figure = schedules.draw()
                else:
                    figure = OF_A_RUN[name](subject)
            except ValueError as error:
                if options.name != "all":
                    raise
                print(f"no {name}: {error}")
                continue
            path = options.out / f"{name}.png"
            style.save(figure, path)
            print(path)


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        options = parse(Options, prog="python -m ddpm_jax.figures")
        prepare_jax()
        main(options)

"""Writes the page of a run: python -m ddpm_jax.report --workdir runs/digits."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax import loading
from ddpm_jax.checks import check_count
from ddpm_jax.command import Path, one_line_errors, parse, prepare_jax
from ddpm_jax.evaluation.report import environment
from ddpm_jax.files import whole_file
from ddpm_jax.report import chain, recorded
from ddpm_jax.report.page import page
from ddpm_jax.streams import outlive_readers
from ddpm_jax.text import reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Writes one HTML file of all that a workdir holds: a run, also one under way.

    Config, curves, grids of samples, the chain, evaluations, versions. It needs no
    network, and holds no script.
    """

    workdir: Path  # the run, or a folder of weights
    out: Path | None = None  # the file to write; None = WORKDIR/report.html
    grids: int = 8  # of the samples over time, at most so many
    chain: bool = True  # draw images on their way from noise, which takes the model

    def __post_init__(self):
        check_count("--grids", self.grids)


def main(options: Options) -> None:
    """Reads, draws, writes.

    Raises:
        OSError: if there is no such folder, or the page cannot be written.
        ValueError: if the folder holds no run.
    """
    found = recorded.read(options.workdir)
    draw, signal, versions = None, None, None
    config = found.config
    if _tried(found, "neither the chain nor devices are shown", _devices):
        if config is not None:
            signal = _tried(
                found, "the schedule is not shown", lambda: chain.signal(config)
            )
        if options.chain:
            draw = _tried(found, "the chain is not drawn", lambda: _draw(options))
        versions = _tried(found, "devices are not told", _versions)
    versions = versions or {"device": "not known"}
    text = page(found, draw=draw, signal=signal, versions=versions, grids=options.grids)
    out = options.out or options.workdir / "report.html"
    with whole_file(out) as file:
        file.write(text.encode())
    print(f"wrote {out} ({len(text) / 1e6:.1f} MB)")


def _devices() -> bool:
    prepare_jax()
    return True


def _draw(options: Options) -> chain.Draw:
    return chain.reverse(loading.load(options.workdir))


def _versions() -> dict[str, Any]:
    return environment() | {"time": time.strftime("%Y-%m-%d %H:%M")}


def _tried(found: recorded.Recorded, what: str, make: Callable[[], Any]) -> Any:
    """What is made; where that cannot be, None and a note on the page."""
    known = (ValueError, OSError, ImportError, RuntimeError)  # the last is JAX's, too
    try:
        return make()
    except (*known, ArithmeticError, MemoryError) as error:
        found.notes.append(f"{what}: {reason(error)}")
        return None


def run(prog: str) -> None:
    """Is the program of that name, from the command line to the exit code."""
    with one_line_errors():
        outlive_readers()
        main(parse(Options, prog=prog))


if __name__ == "__main__":
    run("python -m ddpm_jax.report")

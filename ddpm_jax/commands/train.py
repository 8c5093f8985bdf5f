"""Trains a diffusion model; run again, it goes on from its newest checkpoint."""

import pathlib
import sys

from ddpm_jax import processes
from ddpm_jax.command import one_line_errors, parse_train, prepare_jax
from ddpm_jax.streams import outlive_readers
from ddpm_jax.training import loop
from ddpm_jax.training.start import process_began


def run() -> None:
    """Is the program, from the command line to the exit code."""
    with one_line_errors():
        outlive_readers()
        command = parse_train(sys.argv[1:], prog=pathlib.Path(sys.argv[0]).name)
        processes.start(command.distributed)
        prepare_jax()
        outcome = loop.run(
            command.config,
            command.workdir,
            profile=command.profile,
            began=process_began(),
        )
    if outcome.stopped_by is not None:
        sys.exit(128 + outcome.stopped_by)  # as a shell reports that signal

"""Trains a diffusion model; run again, it goes on from its newest checkpoint.

python train.py                                        digits, in minutes
python train.py --config configs/cifar10.py --workdir DIR --train.batch-size 256
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import pathlib
import sys

from ddpm_jax import processes
from ddpm_jax.command import one_line_errors, parse_train, prepare_jax
from ddpm_jax.streams import outlive_readers
from ddpm_jax.training.loop import run
from ddpm_jax.training.start import process_began

DEFAULT_CONFIG = pathlib.Path(__file__).parent / "configs" / "digits.py"


def main() -> None:
    """Parses the command line and runs the training."""
    with one_line_errors():
        outlive_readers()
        command = parse_train(sys.argv[1:], DEFAULT_CONFIG)
        processes.start(command.distributed)
        prepare_jax()
        began, profile = process_began(), command.profile
        outcome = run(command.config, command.workdir, profile=profile, began=began)
    if outcome.stopped_by is not None:
        sys.exit(128 + outcome.stopped_by)  # as a shell reports that signal


if __name__ == "__main__":
    main()

"""What the installed commands call, and train.py and sample.py in a checkout.

Each imports its program when it is called, since JAX reads the level of its log when it
is imported.
"""

import os


def train() -> None:
    """ddpm-train: trains a diffusion model."""
    _silence_xla()
    from ddpm_jax.commands.train import run

    run()


def sample() -> None:
    """ddpm-sample: draws images from a trained model."""
    _silence_xla()
    from ddpm_jax.commands.sample import run

    run()


def evaluate() -> None:
    """ddpm-evaluate: measures a model's samples, or any images."""
    _silence_xla()
    from ddpm_jax.evaluation.__main__ import run

    run("ddpm-evaluate")


def report() -> None:
    """ddpm-report: writes the page of a run."""
    _silence_xla()
    from ddpm_jax.report.__main__ import run

    run("ddpm-report")


def import_weights() -> None:
    """ddpm-import: makes a workdir to sample from out of published weights."""
    _silence_xla()
    from ddpm_jax.interop import __main__ as interop

    interop.run(interop.import_weights, "ddpm-import")


def export_weights() -> None:
    """ddpm-export: writes the weights of a run for others to read."""
    _silence_xla()
    from ddpm_jax.interop import __main__ as interop

    interop.run(interop.export_weights, "ddpm-export")


def _silence_xla() -> None:
    """Of what XLA logs errors alone are left, and those are raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

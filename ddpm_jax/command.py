"""The command line that the scripts share: configs, overrides, one-line errors."""

import argparse
import contextlib
import dataclasses
import logging
import os
import pathlib
import runpy
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import jax
import tyro

from ddpm_jax.config import Config
from ddpm_jax.processes import Distributed


@dataclasses.dataclass(frozen=True)
class _TrainCommand:
    config: Annotated[Config, tyro.conf.arg(name="")]  # its sections stand on their own
    distributed: Distributed = dataclasses.field(default_factory=Distributed)


class TrainCommand(NamedTuple):
    """What the command line of `train.py` says."""

    config: Config
    workdir: pathlib.Path
    distributed: Distributed


def parse_train(arguments: list[str], default_config: pathlib.Path) -> TrainCommand:
    """Reads `--config FILE --workdir DIR --section.field value ...`.

    The workdir defaults to runs/ and the config file's name.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=pathlib.Path, default=default_config)
    files.add_argument("--workdir", type=pathlib.Path)
    named, overrides = files.parse_known_args(arguments)
    command = tyro.cli(
        _TrainCommand,
        prog="train.py",
        description=(
            "Trains a diffusion model. --config FILE picks the experiment (default: "
            f"{default_config.name}), --workdir DIR where it is kept (default: "
            "runs/NAME; an earlier run there goes on); every other option overrides a "
            "field of the config and shows its value here."
        ),
        default=_TrainCommand(read_config(named.config)),
        args=overrides,
    )
    workdir = named.workdir or pathlib.Path("runs") / named.config.stem
    return TrainCommand(command.config, workdir, command.distributed)


def read_config(path: pathlib.Path) -> Config:
    """What `get_config()` of the file returns.

    Raises:
        ValueError: if the file is missing or does not return a Config.
    """
    if not path.is_file():
        raise ValueError(f"--config must name a file with get_config(); got {path}")
    get_config = runpy.run_path(str(path)).get("get_config")
    try:
        config = get_config() if callable(get_config) else None
    except TypeError as error:  # a field that is not one
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(
            f"{path} must define get_config() that returns a ddpm_jax.config.Config; "
            f"got {type(config).__name__}"
        )
    return config


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a person can mend ends the program with one line and exit code 1."""
    traceback = os.environ.get("DDPM_JAX_TRACEBACK")
    hook = sys.unraisablehook
    if not traceback:
        # Orbax logs the traceback of what its threads raise, and then raises it here;
        # writes that were under way still report to the event loop that it has closed.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        sys.unraisablehook = lambda what: (
            None if "Event loop is closed" in str(what.exc_value) else hook(what)
        )
    try:
        yield
        sys.unraisablehook = hook
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if traceback:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        warnings.simplefilter("ignore")  # what is torn down now has nothing to add
        if jax.distributed.is_initialized():
            os._exit(1)  # a clean exit would wait for processes that wait for this one
        sys.exit(1)


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/ddpm_jax, unless JAX was told otherwise."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = str(pathlib.Path(home) / "ddpm_jax")
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

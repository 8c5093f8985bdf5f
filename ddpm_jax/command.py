"""The command line that the scripts share: configs, overrides, one-line errors."""

import argparse
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import pathlib
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import jax
import tyro

from ddpm_jax.config import Config
from ddpm_jax.processes import Distributed
from ddpm_jax.text import printable


@dataclasses.dataclass(frozen=True)
class _TrainCommand:
    config: Annotated[Config, tyro.conf.arg(name="")]  # its sections stand on their own
    distributed: Distributed = dataclasses.field(default_factory=Distributed)


class TrainCommand(NamedTuple):
    """What the command line of `train.py` says."""

    config: Config
    workdir: pathlib.Path
    distributed: Distributed


_RENAMED = {  # options of old command lines
    "--diffusion.clip": ("--diffusion.clip.kind", "static"),
    "--diffusion.no-clip": ("--diffusion.clip.kind", "none"),
}


def parse_train(arguments: list[str], default_config: pathlib.Path) -> TrainCommand:
    """Reads `--config FILE --workdir DIR --section.field value ...`.

    The workdir defaults to runs/ and the config file's name.

    Raises:
        ValueError: if the workdir is an address, or the config file is none.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=pathlib.Path, default=default_config)
    files.add_argument("--workdir")
    named, overrides = files.parse_known_args(arguments)
    overrides = [new for word in overrides for new in _RENAMED.get(word, (word,))]
    if "://" in (named.workdir or ""):
        raise ValueError(
            f"a workdir must lie in a mounted file system; got {named.workdir}"
        )
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
    workdir = pathlib.Path(named.workdir or f"runs/{named.config.stem}")
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
    """What a person can mend ends the program with one line and exit code 1.

    One of many processes ends at once, whatever has stopped it: a clean exit would wait
    for the others, which wait for this one.
    """
    with_traceback = bool(os.environ.get("DDPM_JAX_TRACEBACK"))
    hook = sys.unraisablehook
    if not with_traceback:
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
    except BaseException as error:
        line = None if with_traceback else _line(error)
        code = _exit_code(error)
        together = jax.distributed.is_initialized()
        if code == 0 or (line is None and not together):
            raise
        try:
            _say(error, line)
        finally:  # also where nobody reads it any more
            if together:
                _end_now(code)
        warnings.simplefilter("ignore")  # what is torn down now has nothing to add
        sys.exit(code)


def _say(error: BaseException, line: str | None) -> None:
    if line is not None:
        print(f"error: {line}", file=sys.stderr, flush=True)
    elif not isinstance(error, SystemExit):
        traceback.print_exc()
    elif isinstance(error.code, str):
        print(error.code, file=sys.stderr)


def _line(error: BaseException) -> str | None:
    """What a person is told; None where it takes the traceback to say it."""
    text = printable(str(error))
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in text:
        return (
            "the device's memory is full: a smaller batch takes less, and in training "
            "so do --train.accumulate 4 and --network.remat; "
            f"JAX says {printable(str(error).splitlines()[0])}"
        )
    known = (ValueError, OSError, ImportError, FloatingPointError)
    return text if isinstance(error, known) else None


def _exit_code(error: BaseException) -> int:
    """What the shell sees of it, as Python has it."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _end_now(code: int) -> None:
    """Ends the process as it is: nobody is waited for, and nobody stays behind."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a pipe that nobody reads
            stream.flush()
    for child in multiprocessing.active_children():  # those that read the data
        child.terminate()
    os._exit(code)


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/ddpm_jax, unless JAX was told otherwise."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = str(pathlib.Path(home) / "ddpm_jax")
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

"""The command line that the scripts share: configs, overrides, one-line errors."""

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import logging
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import jax
import tyro

from ddpm_jax.allocator import keep_freed_memory
from ddpm_jax.config import Config, UNetConfig
from ddpm_jax.experiments import read_config, shipped
from ddpm_jax.files import enclosing_run
from ddpm_jax.processes import Distributed
from ddpm_jax.profiling import check_profile
from ddpm_jax.text import printable


@dataclasses.dataclass(frozen=True)
class _TrainCommand:
    config: Annotated[UNetConfig, tyro.conf.arg(name="")]  # its sections stand alone
    distributed: Distributed = dataclasses.field(default_factory=Distributed)
    # Trace so many steady updates into WORKDIR/profile; None = none
    profile: int | None = None

    def __post_init__(self):
        check_profile(self.profile)


class TrainCommand(NamedTuple):
    """What the command line of `ddpm-train` says."""

    config: Config
    workdir: pathlib.Path
    distributed: Distributed
    profile: int | None


_RENAMED = {  # options of old command lines
    "--diffusion.clip": ("--diffusion.clip.kind", "static"),
    "--diffusion.no-clip": ("--diffusion.clip.kind", "none"),
    "--network.no-remat": ("--network.remat", "none"),
}


def _named(words: list[str]) -> pathlib.Path:
    if not words[0]:
        raise ValueError("a path must have a name; got ''")
    return pathlib.Path(words[0])


# A path on the command line. `pathlib` takes no name for the current directory.
Path = Annotated[
    pathlib.Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_named,
        is_instance=lambda value: isinstance(value, pathlib.Path),
        str_from_instance=lambda path: [str(path)],
    ),
]


def parse(
    command: Any,
    *,
    read: Callable[..., Any] = tyro.cli,
    args: Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """What tyro makes of the command line; an error of usage is one line.

    Args:
        command: what it describes, for `read`: a type, say.
        read: of tyro's, which also takes `args` (None = this program's) and `options`.

    Raises:
        SystemExit: with 2, if the command line is wrong, and with 0 after its help.
    """
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        return read(command, args=args, **options)
    boxed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"  # a line of the message is not broken
    try:
        with contextlib.redirect_stderr(boxed):
            return read(command, args=args, **options)
    except SystemExit:
        line = _unboxed(boxed.getvalue()) + _switch_hint(args)
        print(f"error: {line}", file=sys.stderr, flush=True)
        raise
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns


def parse_call(
    functions: Callable[..., None] | Mapping[str, Callable[..., None]], **options: Any
) -> Callable[[], None]:
    """The call that the command line asks for: of this function, or of one by its name.

    It is made by whoever has it, so that what it prints is not taken for tyro's.
    """

    def later(function: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        @functools.wraps(function)
        def bind(*arguments: Any, **named: Any) -> Callable[[], None]:
            return functools.partial(function, *arguments, **named)

        return bind

    if callable(functions):
        return parse(later(functions), **options)
    bound = {name: later(function) for name, function in functions.items()}
    return parse(bound, read=tyro.extras.subcommand_cli_from_dict, **options)


def _switch_hint(args: Sequence[str]) -> str:
    """What to write for the first option that is given as `--data.resize True`."""
    words = [part for word in args for part in word.split("=", 1)]
    for option, value in itertools.pairwise(words):
        if option.startswith("--") and value.lower() in ("true", "false"):
            section, _, name = option.removeprefix("--").rpartition(".")
            no = "--" + f"{section}.no-{name}".removeprefix(".")
            return f" (a switch takes no value: {option} for yes, {no} for no)"
    return ""


def _unboxed(text: str) -> str:
    """The one line of what tyro says in a box: the error, then the names it suggests.

    Rules divide the box into parts. Names are indented, and what explains them more.
    """
    parts: list[str] = []
    ended = True
    for row in text.splitlines():
        inside = row[2:].rstrip("│ ")
        if row[:2] not in ("│ ", "  "):  # above or below; an ASCII box has no sides
            continue
        if set(inside) <= set("─-"):
            ended = True
        elif ended:
            ended = False
            parts.append(inside)
        elif not inside.startswith(" " * 5):
            parts[-1] += f" {inside.strip()}"
    aside = ("Argument help", "For full help", "Got errors")
    shown = [x for x in parts if not x.startswith(aside)]
    line = "; ".join(shown) if shown else " ".join(text.split())
    return re.sub(r"^Error parsing (?:[^-\s]\S*: )?", "", line)


def parse_train(
    arguments: list[str],
    default_config: str | pathlib.Path = "digits",
    *,
    prog: str = "train.py",
) -> TrainCommand:
    """Reads `--config EXPERIMENT --workdir DIR --section.field value ...`.

    The workdir defaults to runs/ and the experiment's name.

    Args:
        arguments: the words after the program's name.
        default_config: the experiment where none is given, as for `read_config`.
        prog: what the program is called.

    Raises:
        ValueError: if no run can be kept in the workdir, or the config file is none.
        SystemExit: as `parse`.
    """
    files = _Files(add_help=False, allow_abbrev=False)
    files.add_argument("--config", default=default_config)
    files.add_argument("--workdir")
    named, overrides = files.parse_known_args(arguments)
    overrides = _of_today(overrides)
    name = pathlib.Path(named.config).stem
    workdir = f"runs/{name}" if named.workdir is None else named.workdir
    check_workdir(workdir)
    command = parse(
        _TrainCommand,
        prog=prog,
        description=(
            f"Trains a diffusion model. --config picks the experiment, one of "
            f"{', '.join(shipped())}, or a file with get_config() (default: "
            f"{pathlib.Path(default_config).stem}); --workdir DIR is where it is kept "
            "(default: runs/NAME; an earlier run there goes on); every other option "
            "overrides a field of the config and shows its value here."
        ),
        default=_TrainCommand(UNetConfig(**vars(read_config(named.config)))),
        args=overrides,
    )
    config = Config(**vars(command.config))
    where = pathlib.Path(workdir)
    return TrainCommand(config, where, command.distributed, command.profile)


def _of_today(words: list[str]) -> list[str]:
    """A command line of old in today's options."""
    words = [new for word in words for new in _RENAMED.get(word, (word,))]
    new = []
    for word, after in itertools.pairwise([*words, "--"]):
        new.append(word)
        if word == "--network.remat" and after.startswith("--"):  # once a switch
            new.append("blocks")
    return new


class _Files(argparse.ArgumentParser):
    """Whose errors are those of the other options."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def check_workdir(text: str) -> None:
    """Raises ValueError where no run can be kept."""
    if not text:
        raise ValueError("--workdir must name a folder; got ''")
    if "://" in text:
        raise ValueError(f"a workdir must lie in a mounted file system; got {text}")
    place = pathlib.Path(text)
    run = enclosing_run(place)
    if run is not None and "checkpoints" in place.absolute().relative_to(run).parts:
        raise ValueError(
            f"--workdir must not lie among the checkpoints of a run; got {text}: the "
            f"run is {run}"
        )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a person can mend ends the program with one line and exit code 1.

    One of many processes ends at once, whatever has stopped it: a clean exit would wait
    for the others, which wait for this one.
    """
    with_traceback = bool(os.environ.get("DDPM_JAX_TRACEBACK"))
    if not with_traceback:
        # Orbax logs the traceback of what its threads raise, and then raises it here.
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
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
    full = re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", text)
    if isinstance(error, jax.errors.JaxRuntimeError) and full:
        return (
            "the device's memory is full: a smaller batch takes less, and in training "
            "so do --train.accumulate 4 and --network.remat blocks; "
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


def prepare_jax() -> None:
    """Finds the devices, and keeps compiled programs in ~/.cache/ddpm_jax.

    On a CPU what it frees stays with the process, too: see `allocator`.

    Where JAX was told of another cache, that one is used; where none can be written, as
    in a container without a home, none.

    Raises:
        ValueError: if there are no devices as `JAX_PLATFORMS` wants them.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second without a word
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise ValueError(
            f"JAX finds no devices with JAX_PLATFORMS={wanted!r}; GPUs and TPUs need "
            "one of the extras [cuda12], [cuda13] and [tpu]"
            + (f"; JAX says {error}" if str(error) else "")
        ) from error
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    with contextlib.suppress(OSError, RuntimeError):  # the second: nobody's home
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = pathlib.Path(home) / "ddpm_jax"
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK | os.X_OK):
            jax.config.update("jax_compilation_cache_dir", str(directory))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

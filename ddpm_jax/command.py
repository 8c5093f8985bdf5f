"""The command line that the scripts share: configs, overrides, one-line errors."""

import argparse
import contextlib
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator

import jax
import tyro

from ddpm_jax.config import Config


def parse_train(
    arguments: list[str], default_config: pathlib.Path
) -> tuple[Config, pathlib.Path]:
    """(config, workdir) of `--config FILE --workdir DIR --section.field value ...`.

    The workdir defaults to runs/ and the config file's name.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=pathlib.Path, default=default_config)
    files.add_argument("--workdir", type=pathlib.Path)
    named, overrides = files.parse_known_args(arguments)
    config = tyro.cli(
        Config,
        prog="train.py",
        description=(
            "Trains a diffusion model. --config FILE picks the experiment (default: "
            f"{default_config.name}), --workdir DIR where it is kept (default: "
            "runs/NAME; an earlier run there goes on); every other option overrides a "
            "field of the config and shows its value here."
        ),
        default=read_config(named.config),
        args=overrides,
    )
    return config, named.workdir or pathlib.Path("runs") / named.config.stem


def read_config(path: pathlib.Path) -> Config:
    """What `get_config()` of the file returns.

    Raises:
        ValueError: if the file is missing or does not return a Config.
    """
    if not path.is_file():
        raise ValueError(f"--config must name a file with get_config(); got {path}")
    get_config = runpy.run_path(str(path)).get("get_config")
    config = get_config() if callable(get_config) else None
    if not isinstance(config, Config):
        raise ValueError(
            f"{path} must define get_config() that returns a ddpm_jax.config.Config; "
            f"got {type(config).__name__}"
        )
    return config


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a person can mend ends the program with one line and exit code 1."""
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("DDPM_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/ddpm_jax, unless JAX was told otherwise."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = str(pathlib.Path(home) / "ddpm_jax")
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

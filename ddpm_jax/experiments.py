"""Experiments as files: each defines `get_config()`."""

import pathlib
import runpy

from ddpm_jax.config import Config


def read_config(path: pathlib.Path) -> Config:
    """What `get_config()` of the file returns, which may read another's and differ.

    Raises:
        ValueError: if the file is missing, fails, or does not return a Config.
    """
    if not path.is_file():
        raise ValueError(f"--config must name a file with get_config(); got {path}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
    except Exception as error:  # it is somebody's program
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(
            f"{path} must define get_config() that returns a ddpm_jax.config.Config; "
            f"got {type(config).__name__}"
        )
    return config

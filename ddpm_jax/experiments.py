"""Experiments as files: each defines `get_config()`."""

import pathlib
import runpy

from ddpm_jax.config import Config


def shipped() -> dict[str, pathlib.Path]:
    """The experiments that come with the package: each name with its file.

    Examples:
        >>> from ddpm_jax.experiments import shipped
        >>> "cifar10" in shipped()
        True
    """
    package = pathlib.Path(__file__).parent
    folder = package / "configs"  # where a wheel has them
    if not folder.is_dir():
        folder = package.parent / "configs"  # where a checkout has them
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def read_config(experiment: str | pathlib.Path) -> Config:
    """What `get_config()` of a file returns, which may read another's and differ.

    Args:
        experiment: one of the names in `shipped`, as text, or a file.

    Returns:
        The config.

    Raises:
        ValueError: if the file is missing, fails, or does not return a Config.

    Examples:
        >>> from ddpm_jax.experiments import read_config
        >>> config = read_config("cifar10")
        >>> config.data.image_size, config.diffusion.schedule.num_steps
        (32, 1000)
    """
    names = shipped() if isinstance(experiment, str) else {}
    path = names.get(str(experiment), pathlib.Path(experiment))
    if not path.is_file():
        raise ValueError(
            "--config must name a file with get_config(), or be one of "
            f"{', '.join(shipped())}; got {experiment}"
        )
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

"""Denoising diffusion probabilistic models in JAX and Flax.

`ddpm_jax.train` trains a model and `ddpm_jax.load` opens one; `ddpm_jax.diffusion` is
the mathematics, which needs jax and numpy alone. Names are imported when they are first
used, so that none touches what it does not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.loading import load as load
    from ddpm_jax.model import Model as Model
    from ddpm_jax.training.loop import run as train

    __version__: str

_HOME = {
    "Model": ("ddpm_jax.model", "Model"),
    "load": ("ddpm_jax.loading", "load"),
    "train": ("ddpm_jax.training.loop", "run"),
}
__all__ = ["Model", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOME:
        module, attribute = _HOME[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'ddpm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])


def _version() -> str:
    """That of the installed package; a folder that was only copied has none."""
    from importlib import metadata

    try:
        return metadata.version("ddpm_jax")
    except metadata.PackageNotFoundError:
        return "unknown"

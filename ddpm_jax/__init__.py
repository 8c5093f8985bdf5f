"""Denoising diffusion probabilistic models in JAX and Flax.

`ddpm_jax.load` opens a trained model; `ddpm_jax.diffusion` is the mathematics, which
needs jax and numpy alone. Names are imported when they are first used, so that neither
touches what it does not need.
"""

import importlib
from typing import Any

_HOME = {"load": "ddpm_jax.pipeline", "Model": "ddpm_jax.pipeline"}
__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ddpm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

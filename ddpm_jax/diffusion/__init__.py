"""The mathematics: pure functions that need jax and numpy alone.

`schedules` and `transitions` are the forward and the reverse process, `denoiser` is how
a network's output is read, `losses` and `likelihood` the bound on the likelihood,
`samplers`, `guidance` and `editing` the ways to draw. Any callable (x, t) -> output is
a network to them. The folder imports nothing outside itself and can be copied.
"""

from . import (
    denoiser,
    editing,
    gaussians,
    guidance,
    importance,
    likelihood,
    losses,
    parametrisations,
    samplers,
    schedules,
    solver_spacing,
    transitions,
    variances,
)

__all__ = [
    "denoiser",
    "editing",
    "gaussians",
    "guidance",
    "importance",
    "likelihood",
    "losses",
    "parametrisations",
    "samplers",
    "schedules",
    "solver_spacing",
    "transitions",
    "variances",
]

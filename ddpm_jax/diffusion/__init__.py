"""The mathematics: pure functions that need jax and numpy alone.

`schedules` and `transitions` are the forward and the reverse process, `losses` and
`likelihood` the bound on the likelihood, `samplers`, `guidance` and `editing` the ways
to draw. Any callable (x, t) -> output is a network to them.
"""

from ddpm_jax.diffusion import (
    editing,
    gaussians,
    guidance,
    likelihood,
    losses,
    samplers,
    schedules,
    solver_spacing,
    step_sampling,
    transitions,
)

__all__ = [
    "editing",
    "gaussians",
    "guidance",
    "likelihood",
    "losses",
    "samplers",
    "schedules",
    "solver_spacing",
    "step_sampling",
    "transitions",
]

"""What a sampler is, and what the step of every sampler is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ..closures import Closure, as_closure
from ..denoiser import Denoiser, Estimate
from ..noise import draw_noise
from ..schedules import Schedule, at


class StepInfo(NamedTuple):
    """What a step computed besides its result.

    Attributes:
        x0: the (clipped) prediction of x_0 that the step was built on, (batch, *data).
    """

    x0: Array


class SampleState(NamedTuple):
    """The state of a sampler without memory.

    Attributes:
        x: the current sample, (batch, *data).
    """

    x: Array


Step = Callable[[Array, Denoiser, Schedule, Any, Array], tuple[Any, StepInfo]]
"""(key, denoise, schedule, state, i) -> the state at index i - 1, and a `StepInfo`.

The state keeps its structure; i is a scalar.
"""

Update = Callable[[Schedule, Any, Array, Estimate, Any], Any]
"""(schedule, state, i, estimate, noise or None) -> the state at index i - 1."""


class Sampler(NamedTuple):
    """A way down the chain: two pure functions, as optax's transformations are.

    Attributes:
        init: (schedule, x) -> state, a pytree whose field x, (batch, *data), is the
            current sample.
        step: (key, denoise, schedule, state, i) -> (state, `StepInfo`): the state at
            index i - 1, of the same structure, i being a scalar.

    Examples:
        A sampler of one's own, DDIM's deterministic step:

        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import samplers, schedules
        >>> from ddpm_jax.diffusion.samplers.base import SampleState
        >>> def init(schedule, x):
        ...     return SampleState(x)
        >>> def step(key, denoise, schedule, state, i):
        ...     said = denoise(schedule, state.x, i)
        ...     signal = schedule.alphas_cumprod_prev[i]
        ...     x = jnp.sqrt(signal) * said.x0 + jnp.sqrt(1 - signal) * said.eps
        ...     return SampleState(x), samplers.StepInfo(said.x0)
        >>> own = samplers.Sampler(init, step)
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> def network(x, t):
        ...     return 0.5 * x
        >>> x = samplers.sample(0, network, schedule, (2, 3), sampler=own)
        >>> theirs = samplers.sample(
        ...     0, network, schedule, (2, 3), sampler=samplers.ddim()
        ... )
        >>> bool(jnp.allclose(x, theirs, rtol=1e-3))
        True
    """

    init: Callable[[Schedule, Array], Any]
    step: Step

    @property
    def spacing(self) -> str:
        """The spacing that suits it where only the number of steps is given.

        A name, "uniform" unless the step, or its update, was marked by `suits`.
        """
        function: Any = self.step
        while isinstance(function, Closure):
            function = function.values.get("update", function.function)
        return getattr(function, "spacing", "uniform")


def check_sampler(sampler: Any) -> None:
    """Refuses what is no Sampler, such as the function that makes one.

    Args:
        sampler: anything.

    Raises:
        ValueError: if it is no `Sampler`.
    """
    if not isinstance(sampler, Sampler):
        hint = ": call it" if callable(sampler) else ""
        raise ValueError(
            f"sampler must be a Sampler, e.g. samplers.ddim(); got {sampler!r}{hint}"
        )


def suits(spacing: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a sampler's step, or its update, with the name of the spacing it likes.

    Args:
        spacing: a name that `build.make_schedule` knows.

    Returns:
        A decorator.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        vars(function)["spacing"] = spacing
        return function

    return mark


def start(schedule: Schedule, x: Array) -> SampleState:
    """The init of a sampler without memory.

    Args:
        schedule: not read.
        x: where to start, (batch, *data).

    Returns:
        The first state.
    """
    del schedule
    return SampleState(x)


def one_call(
    update: Update, *, stochastic: bool, init: Callable[..., Any] = start
) -> Sampler:
    """The sampler that asks the denoiser once a step and updates its state with that.

    Args:
        update: (schedule, state, i, estimate, noise) -> the state at index i - 1.
        stochastic: whether noise is drawn, (batch, *data); else the update is given
            None.
        init: (schedule, x) -> the first state.

    Returns:
        The sampler.

    Raises:
        ValueError: if the update is no function, or bound to what is not hashable.
    """
    step = Closure(_step, update=as_closure(update), stochastic=stochastic)
    return Sampler(init, step)


def memoryless(update: Update, *, stochastic: bool) -> Sampler:
    """The sampler whose state is x alone, and whose update is one of x.

    Args:
        update: (schedule, x, i, estimate, noise) -> x at index i - 1, (batch, *data).
        stochastic: whether noise is drawn; else the update is given None.

    Returns:
        The sampler.

    Raises:
        ValueError: if the update is no function, or bound to what is not hashable.
    """
    return one_call(Closure(_of_x, update=as_closure(update)), stochastic=stochastic)


def floating(schedule: Schedule, x: Array) -> Array:
    """x of the type that a chain makes of it: what a loop begins with must last.

    Args:
        schedule: the chain.
        x: (batch, *data).

    Returns:
        The same, float, (batch, *data).
    """
    return jnp.asarray(x, jnp.result_type(x, schedule.betas))


def before(table: Array, first: float, i: Array, like: Array) -> Array:
    """table[i - 1], and `first` before index 0; to broadcast against `like`.

    Args:
        table: floats of shape (T,).
        first: what is before entry 0.
        i: integers in 0..T-1, () or (batch,).
        like: (batch, *data).

    Returns:
        The entries, () or (batch, 1, ..., 1).

    Raises:
        ValueError: as `schedules.at`.
    """
    shifted = jnp.concatenate([jnp.full(1, first, table.dtype), table[:-1]])
    return at(shifted, i, like)


def _step(
    key: Array,
    denoise: Denoiser,
    schedule: Schedule,
    state: Any,
    i: Array,
    *,
    update: Update,
    stochastic: bool,
) -> tuple[Any, StepInfo]:
    estimate = denoise(schedule, state.x, i)
    noise = draw_noise(key, state.x) if stochastic else None
    return update(schedule, state, i, estimate, noise), StepInfo(estimate.x0)


def _of_x(
    schedule: Schedule,
    state: SampleState,
    i: Array,
    estimate: Estimate,
    noise: Array | None,
    *,
    update: Update,
) -> SampleState:
    return SampleState(update(schedule, state.x, i, estimate, noise))

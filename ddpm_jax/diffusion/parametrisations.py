"""What a network predicts: how its output is read, its target, and its weight.

eps, x_0 and v say the same of x_t = signal x_0 + sigma eps; a model is trained on one
of them and read as that one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from .schedules import Schedule, at, check_signal


class Prediction(NamedTuple):
    """What a network says about x_t, in its three equivalent forms (see `velocity`).

    Attributes:
        x0: the clean data, (batch, *data), in [-1, 1] for images.
        eps: the noise in x_t, (batch, *data), standard normal if right.
        v: sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, (batch, *data).
    """

    x0: Array
    eps: Array
    v: Array


_UNREADABLE = (
    "a network that predicts eps cannot start from zero terminal SNR, where eps says "
    "nothing of x_0: predict v or x0"
)

Predict = Callable[[Schedule, Array, Array, Array], Prediction]
"""(schedule, xt, t, output) -> the prediction, each field of the shape of x_t."""


@dataclass(frozen=True, repr=False)
class Parametrisation:
    """What an output stands for. Called, it reads: it is a `Predict`.

    `from_eps` (Ho et al. 2020, eq. 15), `from_x0` and `from_v` (Salimans & Ho 2022) are
    the package's own.

    Attributes:
        name: how it is printed.
        read: (schedule, xt, t, output) -> `Prediction`; arrays are (batch, *data), t is
            () or (batch,).
        target: (schedule, x0, t, noise) -> what a perfect network returns for the x_t
            that they make, (batch, *data). Losses are taken against it.
        eps_error: SNR -> the squared error of eps for one of the output, of any shape;
            None where no weights of a loss can be used.

    Examples:
        A network that predicts x_0 + eps, as no paper has it:

        >>> from ddpm_jax.diffusion.parametrisations import Parametrisation, from_x0
        >>> from ddpm_jax.diffusion.schedules import at
        >>> def read(schedule, xt, t, output):
        ...     signal = at(schedule.sqrt_alphas_cumprod, t, xt)
        ...     sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, xt)
        ...     x0 = (xt - sigma * output) / (signal - sigma)
        ...     return from_x0(schedule, xt, t, x0)
        >>> from_sum = Parametrisation(
        ...     "from_sum", read, lambda schedule, x0, t, noise: x0 + noise
        ... )
        >>> from_sum
        from_sum
    """

    name: str
    read: Predict
    target: Callable[[Schedule, Array, Array, Array], Array]
    eps_error: Callable[[Array], Array] | None = None

    def __call__(
        self, schedule: Schedule, xt: Array, t: Array, output: Array, /
    ) -> Prediction:
        """The prediction of a network that returned `output` for (x_t, t).

        Args:
            schedule: the chain.
            xt: (batch, *data).
            t: () or (batch,).
            output: the network's mean part, (batch, *data).

        Returns:
            The prediction, each field (batch, *data).
        """
        return self.read(schedule, xt, t, output)

    def __repr__(self) -> str:
        return self.name


def _read_eps(schedule: Schedule, xt: Array, t: Array, output: Array) -> Prediction:
    check_signal(schedule, _UNREADABLE)
    ratio = at(schedule.sqrt_recipm1_alphas_cumprod, t, xt)
    ratio = jnp.where(jnp.isinf(ratio), jnp.nan, ratio)  # a clip would hide infinity
    x0 = at(schedule.sqrt_recip_alphas_cumprod, t, xt) * xt - ratio * output
    return Prediction(x0, output, velocity(schedule, x0, t, output))


def _read_x0(schedule: Schedule, xt: Array, t: Array, output: Array) -> Prediction:
    signal = at(schedule.sqrt_alphas_cumprod, t, xt)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, xt)
    eps = (xt - signal * output) / sigma
    return Prediction(output, eps, velocity(schedule, output, t, eps))


def _read_v(schedule: Schedule, xt: Array, t: Array, output: Array) -> Prediction:
    signal = at(schedule.sqrt_alphas_cumprod, t, xt)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, xt)
    x0, eps = signal * xt - sigma * output, signal * output + sigma * xt
    return Prediction(x0, eps, output)


def velocity(schedule: Schedule, x0: Array, t: Array, eps: Array) -> Array:
    """v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022).

    Args:
        schedule: the chain.
        x0: clean data, (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        eps: the noise, (batch, *data).

    Returns:
        v, (batch, *data).

    Raises:
        ValueError: if a concrete t lies outside the chain, or t is not of integers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import parametrisations, schedules
        >>> schedule = schedules.make_schedule(schedules.constant_betas(2, value=0.64))
        >>> x0, eps = jnp.ones((1, 1)), jnp.zeros((1, 1))
        >>> print(parametrisations.velocity(schedule, x0, jnp.array(0), eps))
        [[-0.8]]
    """
    signal = at(schedule.sqrt_alphas_cumprod, t, x0)
    sigma = at(schedule.sqrt_one_minus_alphas_cumprod, t, x0)
    return signal * eps - sigma * x0


from_eps = Parametrisation(
    "from_eps", _read_eps, lambda s, x0, t, eps: eps, jnp.ones_like
)
"""The output is eps, the noise in x_t, (batch, *data) (Ho et al. 2020, eq. 15).

Zero terminal SNR, where eps leaves x_0 open, is a ValueError where the schedule is
concrete, and NaN at that step where it is traced.
"""

from_x0 = Parametrisation(
    "from_x0", _read_x0, lambda s, x0, t, eps: x0, lambda snr: snr
)
"""The output is x_0, (batch, *data) (Salimans & Ho 2022, section 4)."""

from_v = Parametrisation("from_v", _read_v, velocity, lambda snr: snr / (1 + snr))
"""The output is v, (batch, *data), as `velocity` (Salimans & Ho 2022, section 4)."""

"""The one place where a network's output is read.

What a network predicts is a fact of the model, as its weights are. `denoiser` binds it
to the network; samplers, likelihood, guidance and editing ask the denoiser for x_0, eps
and the reverse variance, and know nothing of outputs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .closures import Closure, as_closure
from .parametrisations import Parametrisation, Predict, Prediction, from_eps, from_x0
from .schedules import Schedule
from .variances import Variance, VarianceRule, as_variance, fixed_large

Clip = Callable[[Array], Array]
"""x_0 -> x_0, both (batch, *data): a limit on what a model predicts."""

Network = Callable[[Array, Array], Array]
"""(x, t) -> output, for x (batch, *data) at the steps t (batch,).

The output is of the shape of x, or, for a learned variance, with twice its channels,
the last axis being [mean, variance part].
"""


class Estimate(NamedTuple):
    """What a model says at (x_t, t).

    Attributes:
        x0: the predicted clean data, (batch, *data), limited by the clip.
        eps: the predicted noise, (batch, *data).
        variance: of p(x_{t-1} | x_t), broadcasting against the data.
    """

    x0: Array
    eps: Array
    variance: Variance


@jax.tree_util.register_pytree_node_class
class Denoiser(Closure):
    """(schedule, x, i) -> Estimate at index i, a scalar, of the schedule; a pytree.

    `denoiser` makes one of a network. `Denoiser(function, **values)` makes one of any
    function(schedule, x, i, **values) -> Estimate, whose values may be denoisers. x is
    (batch, *data), and so are x0 and eps of the estimate.

    Raises:
        ValueError: as `closures.Closure`.

    Examples:
        The best denoiser of data that are all 0.5:

        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from ddpm_jax.diffusion import samplers, schedules, transitions
        >>> from ddpm_jax.diffusion.denoiser import Denoiser, Estimate
        >>> def point(schedule, x, i, *, data):
        ...     x0 = jnp.broadcast_to(data, x.shape)
        ...     said = transitions.from_x0(schedule, x, i, x0)
        ...     spread = transitions.fixed_small(schedule, i, None, x)
        ...     return Estimate(said.x0, said.eps, spread)
        >>> schedule = schedules.make_schedule(schedules.linear_betas(1000))
        >>> denoise = Denoiser(point, data=jnp.full((1, 3), 0.5))
        >>> x = samplers.sample(0, denoise, schedule, (2, 3))
        >>> print(np.asarray(x).round(4))
        [[0.5 0.5 0.5]
         [0.5 0.5 0.5]]
    """

    if TYPE_CHECKING:

        def __call__(self, schedule: Schedule, x: Array, i: Array, /) -> Estimate:
            """The estimate at (x, index i), of the shape of x, (batch, *data)."""

    def check(self, schedule: Schedule) -> None:
        """Finds out whether the model can work on a concrete schedule.

        Args:
            schedule: the chain; a traced one passes.

        Raises:
            ValueError: the model's own, e.g. of `from_eps` at zero terminal SNR.
        """
        # Tried out on one number and not under a trace, where no value is concrete.
        one = jnp.ones(1, schedule.betas.dtype)
        for value in self.values.values():
            if isinstance(value, Denoiser):
                value.check(schedule)
            elif isinstance(value, Parametrisation):
                value(schedule, one, jnp.zeros(1, jnp.int32), one)


def denoiser(
    network: Network,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = None,
    rederive: bool = True,
) -> Denoiser:
    """A network and how its output is read.

    Args:
        network: (x, t) -> output, for x (batch, *data) and t (batch,). It is told
            `schedule.timesteps[i]`, one per example. The output has the shape of x, or,
            for a learned variance, twice its channels.
        predict: what the mean part is: `from_eps`, `from_x0`, `from_v`, or another.
        variance: `fixed_small`, `fixed_large`, `learned`, `learned_range`, or another.
        clip: limits the predicted x_0, e.g. `guidance.clip_static()`; None does not.
        rederive: after clipping, compute eps again from x_0, as DDPM's and OpenAI's
            code do; diffusers' DDIM keeps the eps that the network said.

    Returns:
        What samplers, likelihood, guidance and editing ask.

    Raises:
        ValueError: if one of them is not callable.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import guidance, schedules, transitions
        >>> from ddpm_jax.diffusion.denoiser import denoiser
        >>> def network(x, t):  # x (batch, *data), t (batch,)
        ...     return jnp.zeros_like(x)
        >>> denoise = denoiser(
        ...     network, predict=transitions.from_v, clip=guidance.clip_static()
        ... )
        >>> schedule = schedules.make_schedule(schedules.cosine_betas(1000))
        >>> estimate = denoise(schedule, jnp.full((2, 8, 8, 1), 3.0), jnp.array(0))
        >>> estimate.x0.shape, float(estimate.x0.max())
        ((2, 8, 8, 1), 1.0)
    """
    if isinstance(network, Denoiser):
        raise ValueError("a network was expected, (x, t) -> output; got a denoiser")
    for name, function, example in (
        ("network", network, "(x, t) -> output"),
        ("predict", predict, "from_eps, from_x0 or from_v"),
        ("variance", variance, "fixed_small or fixed_large"),
        ("clip", clip, "guidance.clip_static()"),
    ):
        if not callable(function) and not (name == "clip" and function is None):
            raise ValueError(
                f"{name} must be a function, e.g. {example}; got {function!r}"
            )
    return Denoiser(
        _estimate,
        network=as_closure(network),
        predict=predict,
        variance=variance,
        clip=None if clip is None else as_closure(clip),
        rederive=bool(rederive),
    )


def as_denoiser(
    denoise: Denoiser | Network, schedule: Schedule | None = None
) -> Denoiser:
    """The denoiser itself, a plain network as `denoiser(network)`.

    Args:
        denoise: a denoiser, or (x, t) -> output for x (batch, *data) and t (batch,).
        schedule: the chain that it is to work on; None checks nothing.

    Returns:
        A denoiser.

    Raises:
        ValueError: if it cannot work on the schedule, where one is given.
    """
    denoise = denoise if isinstance(denoise, Denoiser) else denoiser(denoise)
    if schedule is not None:
        denoise.check(schedule)
    return denoise


def read(
    schedule: Schedule,
    xt: Array,
    t: Array,
    output: Array,
    *,
    predict: Predict = from_eps,
    variance: VarianceRule = fixed_large,
    clip: Clip | None = None,
    rederive: bool = True,
) -> tuple[Prediction, Variance]:
    """What an output at (x_t, t) says.

    Args:
        schedule: the chain.
        xt: (batch, *data).
        t: steps in 0..T-1, () or (batch,).
        output: the network's, (batch, *data), or with twice the channels.
        predict: as for `denoiser`.
        variance: as for `denoiser`.
        clip: as for `denoiser`.
        rederive: as for `denoiser`.

    Returns:
        The prediction, limited by the clip, and the reverse variance.

    Raises:
        ValueError: if the output has neither the shape of xt nor twice its channels.
    """
    mean_part, values = split_output(output, xt)
    prediction = predict(schedule, xt, t, mean_part)
    if clip is not None:
        prediction = prediction._replace(x0=clip(prediction.x0))
        if rederive:
            prediction = from_x0(schedule, xt, t, prediction.x0)
    return prediction, as_variance(variance(schedule, t, values, xt))


def split_output(output: Array, xt: Array) -> tuple[Array, Array | None]:
    """A network's output as (mean part, variance part or None), by its channels.

    The variance part comes last, as in Improved DDPM's code.

    Args:
        output: (batch, *data), or with twice the channels, the last axis.
        xt: what the network was given, (batch, *data).

    Returns:
        Both parts, each of the shape of xt.

    Raises:
        ValueError: if the last axis is neither that of xt nor twice it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion.transitions import split_output
        >>> xt, output = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 6))
        >>> mean, variance = split_output(output, xt)
        >>> mean.shape, variance.shape
        ((2, 8, 8, 3), (2, 8, 8, 3))
    """
    if output.shape == xt.shape:
        return output, None
    if output.shape == (*xt.shape[:-1], 2 * xt.shape[-1]):
        mean_part, variance_part = jnp.split(output, 2, axis=-1)
        return mean_part, variance_part
    raise ValueError(
        "a network's output must have the shape of x_t, or twice its channels where "
        f"the variance is learned; got {output.shape} for x_t of shape {xt.shape}"
    )


def _estimate(
    schedule: Schedule, x: Array, i: Array, *, network: Network, **reading: Any
) -> Estimate:
    output = network(x, jnp.full(x.shape[:1], schedule.timesteps[i]))
    output = output.astype(x.dtype)  # a loop's state keeps its type
    prediction, variance = read(schedule, x, i, output, **reading)
    return Estimate(prediction.x0, prediction.eps, variance)

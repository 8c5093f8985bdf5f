"""What stands between a network and a sampler: limits on x_0, and guidance."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from .closures import Closure, as_closure
from .denoiser import Clip, Denoiser, split_output
from .schedules import concrete, per_example

Conditional = Callable[[Array, Array, Array], Array]
"""(x, t, label) -> output: a `Network` that is told labels of shape (batch,)."""

Scale = float | Array | Callable[[Array], Array]
"""A number, (batch,) numbers, or a function from t, of shape (batch,), to either."""


def clip_static(bound: float | Array = 1.0) -> Clip:
    """x_0 -> x_0 limited to [-bound, bound], as the code of Ho et al. 2020 limits it.

    Args:
        bound: positive, a number or ().

    Returns:
        A function of x_0, (batch, *data), for `denoiser.denoiser(..., clip=...)`.

    Raises:
        ValueError: if a concrete bound is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import guidance
        >>> print(guidance.clip_static()(jnp.array([[-3.0, 0.5, 1.5]])))
        [[-1.   0.5  1. ]]
    """
    value = concrete(bound)
    if value is not None and not np.all(value > 0):
        raise ValueError(f"the bound of a clip must be positive; got {bound}")
    # A float: a whole number would be part of the program.
    return Closure(
        _clip_static, bound=bound if isinstance(bound, Array) else float(bound)
    )


def clip_dynamic(percentile: float = 0.995, max_value: float | None = None) -> Clip:
    """x_0 -> x_0 limited to an example's own range and scaled back into [-1, 1].

    Saharia et al. 2022, section 2.3: with s the quantile of an example's |x_0|, but at
    least 1 and at most `max_value`, x_0 is clipped to [-s, s] and divided by s.

    Args:
        percentile: which quantile, in (0, 1].
        max_value: at least 1; None is no limit.

    Returns:
        A function of x_0, (batch, *data), for `denoiser.denoiser(..., clip=...)`.

    Raises:
        ValueError: if they are out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import guidance
        >>> clip = guidance.clip_dynamic(percentile=1.0)
        >>> print(clip(jnp.array([[-4.0, 2.0], [0.5, 0.25]])))
        [[-1.    0.5 ]
         [ 0.5   0.25]]
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile must lie in (0, 1]; got {percentile}")
    if max_value is not None and max_value < 1:
        raise ValueError(f"max_value must be at least 1; got {max_value}")
    largest = np.inf if max_value is None else float(max_value)
    return Closure(_clip_dynamic, percentile=float(percentile), largest=largest)


def classifier_free(
    conditional: Conditional | Denoiser,
    label: Array,
    null_label: int,
    scale: Scale,
    *,
    first_step: int | None = None,
    last_step: int | None = None,
    rescale: float | Array = 0.0,
) -> Closure | Denoiser:
    """The network (x, t) -> output guided towards `label` (Ho & Salimans 2022).

        (1 - scale) conditional(x, t, null_label) + scale conditional(x, t, label)

    Both branches are one call with the batch twice as long. Scale 1 is the conditional
    model and 0 the unconditional one, to the bit; the paper's w is scale - 1. Where the
    output has twice the channels of x (learned variance), the mean half is guided and
    the variance half is that of the conditional branch. Guidance comes before clipping,
    which is the denoiser's: `denoiser(classifier_free(...), clip=...)`.

    The result is a pytree with label and scale as leaves: a new scale compiles nothing.

    Args:
        conditional: (x, t, label) -> output, for x (batch, *data), t and label
            (batch,); or a denoiser of such a network, which makes the result a denoiser
            that reads it alike.
        label: integers, () or (batch,).
        null_label: the label that means "none".
        scale: a number, (batch,) numbers, or a function from t, (batch,), to either.
        first_step: the smallest step t, as the network is told it, where guidance acts;
            outside the model is conditional (Kynkäänniemi et al. 2024). None sets no
            limit.
        last_step: the largest.
        rescale: how far the guided output's standard deviation over an example is
            brought back to that of the conditional one, 0 to 1 (Lin et al. 2023,
            section 3.4).

    Returns:
        A network, or a denoiser where `conditional` is one. Called, it raises
        ValueError for labels or scales of other shapes.

    Raises:
        ValueError: if `conditional` is a denoiser, but of no network.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ddpm_jax.diffusion import guidance
        >>> def conditional(x, t, label):  # 10 is "none"
        ...     return jnp.where(label == 10, 0.0, label)[:, None] * jnp.ones_like(x)
        >>> network = guidance.classifier_free(conditional, 3, null_label=10, scale=2.0)
        >>> print(network(jnp.zeros((2, 1)), jnp.array([5, 5])))
        [[6.]
         [6.]]
    """
    if isinstance(conditional, Denoiser):
        if "network" not in conditional.values:
            raise ValueError("guidance needs a denoiser of a network; got another one")
        limits = {"first_step": first_step, "last_step": last_step}
        network = conditional.values["network"]
        guided = classifier_free(
            network, label, null_label, scale, rescale=rescale, **limits
        )
        return conditional.replace(network=guided)
    scale = as_closure(scale) if callable(scale) else jnp.asarray(scale, float)
    unscaled = not isinstance(rescale, Array) and rescale == 0
    return Closure(
        _guided,
        conditional=as_closure(conditional),
        label=jnp.asarray(label),
        null_label=jnp.asarray(null_label),
        scale=scale,
        first_step=None if first_step is None else jnp.asarray(first_step),
        last_step=None if last_step is None else jnp.asarray(last_step),
        rescale=None if unscaled else jnp.asarray(rescale, float),
    )


def _guided(
    x: Array,
    t: Array,
    *,
    conditional: Conditional,
    label: Array,
    null_label: Array,
    scale: Array | Closure,
    rescale: Array | None,
    **limits: Array | None,
) -> Array:
    batch = x.shape[:1]
    if label.shape not in ((), batch):
        raise ValueError(
            f"label must be a scalar or of the batch's shape {batch}; got {label.shape}"
        )
    t = jnp.broadcast_to(t, batch)
    labels = [jnp.broadcast_to(each, batch) for each in (label, null_label)]
    output = conditional(
        jnp.concatenate([x, x]), jnp.concatenate([t, t]), jnp.concatenate(labels)
    )
    (with_label, variance), (without, _) = (
        split_output(half, x) for half in jnp.split(output, 2)
    )
    weight = jnp.asarray(scale(t) if callable(scale) else scale)
    if weight.shape not in ((), batch):
        raise ValueError(
            "the scale of guidance must be a number, or one for each of the batch's "
            f"{batch[0]} examples; got shape {weight.shape}"
        )
    if limits["first_step"] is not None:
        weight = jnp.where(t >= limits["first_step"], weight, 1.0)
    if limits["last_step"] is not None:
        weight = jnp.where(t <= limits["last_step"], weight, 1.0)
    weight = per_example(weight.astype(x.dtype), x)
    guided = (1 - weight) * without + weight * with_label
    if rescale is not None:
        guided = _rescaled(guided, with_label, rescale)
    if variance is None:
        return guided
    return jnp.concatenate([guided, variance], axis=-1)


def _rescaled(guided: Array, like: Array, rescale: Array) -> Array:
    axes = tuple(range(1, guided.ndim))
    spread = jnp.std(guided, axes, keepdims=True)
    flat = spread == 0  # has no spread to bring back: of one number, or constant
    ratio = jnp.std(like, axes, keepdims=True) / jnp.where(flat, 1.0, spread)
    ratio = jnp.where(flat, 1.0, ratio)
    return rescale * ratio * guided + (1 - rescale) * guided


def _clip_static(x0: Array, *, bound: Array) -> Array:
    return jnp.clip(x0, -bound, bound)


def _clip_dynamic(x0: Array, *, percentile: Array, largest: Array) -> Array:
    size = jnp.abs(x0).reshape(x0.shape[0], -1)
    s = jnp.clip(jnp.quantile(size, percentile, axis=1), 1.0, largest)
    s = per_example(s.astype(x0.dtype), x0)
    return jnp.clip(x0, -s, s) / s

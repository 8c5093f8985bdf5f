r"""Variance schedules of the forward process (Ho et al. 2020, section 2).

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
    q(x_t | x_0)     = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)        (eq. 4)

Steps are counted from 0: entry t of a table belongs to what the paper calls step t + 1,
and alpha_bar before step 0 is 1. Betas are NumPy float64; `make_schedule` derives every
other coefficient in float64 and rounds once, at the end, because 1 - alpha_bar formed
from a float32 alpha_bar has lost three digits at the first steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from .betas import betas_of, checked_betas
from .betas import constant_betas as constant_betas
from .betas import cosine_betas as cosine_betas
from .betas import jsd_betas as jsd_betas
from .betas import linear_betas as linear_betas
from .betas import quadratic_betas as quadratic_betas
from .betas import sigmoid_betas as sigmoid_betas
from .betas import warmup_betas as warmup_betas
from .betas import zero_terminal_snr as zero_terminal_snr
from .spacing import spaced_timesteps as spaced_timesteps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Every coefficient that q and p read: one table of shape (T,) each, a pytree.

    Tables are float32 (float64 under x64), and entry t belongs to step t, counted
    from 0. Equations are those of Ho et al. 2020. `make_schedule` makes one.

    Attributes:
        betas: beta_t, in (0, 1], shape (T,) as all of them.
        alphas_cumprod: alpha_bar_t = prod_{s <= t} (1 - beta_s).
        alphas_cumprod_prev: alpha_bar_{t-1}; 1 at t = 0.
        sqrt_alphas_cumprod: signal scale of x_t (eq. 4).
        sqrt_one_minus_alphas_cumprod: noise scale of x_t (eq. 4).
        log_one_minus_alphas_cumprod: log variance of q(x_t | x_0).
        sqrt_recip_alphas_cumprod: 1 / signal scale; inf at zero SNR.
        sqrt_recipm1_alphas_cumprod: noise scale / signal scale; inf at zero SNR.
        posterior_variance: beta~_t (eq. 7); 0 at t = 0.
        posterior_log_variance_clipped: its log, entry 0 replaced by entry 1.
        posterior_mean_coef1: weight of x_0 in the mean of eq. 7.
        posterior_mean_coef2: weight of x_t in it.
        log_betas_clipped: log beta_t, entry 0 replaced by log beta~_1.
        timesteps: the step that the network is told at each index, int32; float where
            a chain visits positions between two steps.

    Examples:
        >>> import numpy as np
        >>> from ddpm_jax.diffusion.schedules import linear_betas, make_schedule
        >>> schedule = make_schedule(linear_betas(1000))
        >>> schedule.num_steps, schedule.alphas_cumprod.shape
        (1000, (1000,))
        >>> print(np.asarray(schedule.alphas_cumprod[::333]).round(4))
        [0.9999 0.3186 0.011  0.    ]
    """

    betas: Array
    alphas_cumprod: Array
    alphas_cumprod_prev: Array
    sqrt_alphas_cumprod: Array
    sqrt_one_minus_alphas_cumprod: Array
    log_one_minus_alphas_cumprod: Array
    sqrt_recip_alphas_cumprod: Array
    sqrt_recipm1_alphas_cumprod: Array
    posterior_variance: Array
    posterior_log_variance_clipped: Array
    posterior_mean_coef1: Array
    posterior_mean_coef2: Array
    log_betas_clipped: Array
    timesteps: Array

    @property
    def num_steps(self) -> int:
        """The number of diffusion steps T."""
        return self.betas.shape[0]

    def beta(self, t: Array) -> Array:
        """beta_t of the forward process (Ho et al. 2020, eq. 2).

        Args:
            t: steps in 0..T-1, integers of any shape.

        Returns:
            The betas, of the shape of t; NaN at a traced step outside 0..T-1.

        Raises:
            ValueError: as `lookup`.
        """
        return lookup(self.betas, t)


def lookup(table: Array, t: Array) -> Array:
    """table[t], never silently wrong.

    Plain indexing returns the last entry for t = -1 and for t >= T.

    Args:
        table: floats of shape (T,).
        t: integers of any shape.

    Returns:
        The entries, of the shape of t; NaN at a traced step outside 0..T-1.

    Raises:
        ValueError: if t is not of integers, or a concrete (not traced) one lies outside
            0..T-1.
    """
    t = np.asarray(t) if isinstance(t, (list, tuple)) else t
    steps, last = concrete(t), table.shape[0] - 1
    if not jnp.issubdtype(jnp.result_type(t), jnp.integer):
        raise ValueError(f"a step must be an integer; got {jnp.result_type(t)}")
    if steps is not None and steps.size and not 0 <= steps.min() <= steps.max() <= last:
        raise ValueError(
            f"a step must lie in 0..{last}; got {steps.min()}..{steps.max()}"
        )
    return table.at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def at(table: Array, t: Array, like: Array) -> Array:
    """table[t] (see `lookup`), to broadcast against `like`.

    Args:
        table: floats of shape (T,).
        t: integers, () or (batch,).
        like: (batch, *data).

    Returns:
        The entries, () or (batch, 1, ..., 1) with the axes of `like`.

    Raises:
        ValueError: as `lookup`, and if t has more axes.
    """
    values = lookup(table, t)
    if values.ndim > 1:
        raise ValueError(f"t must be a scalar or (batch,); got shape {values.shape}")
    return per_example(values, like)


def per_example(values: Array, x: Array) -> Array:
    """A value for each example, to broadcast against a batch.

    Args:
        values: () or (batch,).
        x: (batch, *data).

    Returns:
        () as it is, or (batch, 1, ..., 1) with the axes of x.
    """
    extra = x.ndim - values.ndim if values.ndim else 0
    return values.reshape(values.shape + (1,) * extra)


def concrete(value: ArrayLike) -> np.ndarray | None:
    """The value as NumPy has it, to be checked.

    Args:
        value: an array of any shape, or a number.

    Returns:
        The same of the same shape, or None if it is traced.
    """
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def check_signal(schedule: Schedule, reason: str) -> None:
    """Refuses a concrete chain with zero terminal SNR (Lin et al. 2023).

    Args:
        schedule: the chain; a traced one passes.
        reason: how the error begins.

    Raises:
        ValueError: with the reason, if alpha_bar is 0 at the last step.
    """
    table = concrete(schedule.alphas_cumprod)
    if table is not None and table[-1] == 0:
        last = schedule.num_steps - 1
        raise ValueError(f"{reason}; got alpha_bar = 0 at step {last}")


def make_schedule(
    betas: np.ndarray, *, timesteps: np.ndarray | None = None
) -> Schedule:
    """The whole schedule of `betas`, or of the chain respaced to a subset of its steps.

    The respaced chain visits only `timesteps`: its betas are those that give the same
    alpha_bar there (Nichol & Dhariwal 2021, section 4), and `Schedule.timesteps` keeps
    the original steps, which are what the network is told.

    Args:
        betas: shape (T,), each in (0, 1); the last one may be 1 (zero terminal SNR).
        timesteps: strictly ascending integers in 0..T-1, shape (S,); None keeps all.

    Returns:
        The schedule, of tables of shape (T,), or (S,) where it is respaced.

    Raises:
        ValueError: if betas or timesteps are not as said, or are too small or too
            large for the tables to be finite.

    Examples:
        >>> from ddpm_jax.diffusion import schedules
        >>> betas = schedules.linear_betas(1000)
        >>> kept = schedules.spaced_timesteps(1000, 4, spacing="trailing")
        >>> short = schedules.make_schedule(betas, timesteps=kept)
        >>> short.num_steps, short.timesteps.tolist()
        (4, [249, 499, 749, 999])
        >>> whole = schedules.make_schedule(betas)
        >>> bool((short.alphas_cumprod == whole.alphas_cumprod[kept]).all())
        True
    """
    betas = checked_betas(betas)
    kept = np.arange(len(betas))
    if timesteps is not None:
        kept = _checked_timesteps(timesteps, len(betas))
        betas = betas_of(np.cumprod(1 - betas)[kept])
    alpha_bar = np.cumprod(1 - betas)
    _check_finite(alpha_bar)
    prev = np.append(1.0, alpha_bar[:-1])
    variance = betas * (1 - prev) / (1 - alpha_bar)
    # beta~_0 is 0 and has no logarithm; beta~_1 stands in (Ho's and OpenAI's code).
    stand_in = variance[1] if len(betas) > 1 else betas[0]
    with np.errstate(divide="ignore"):  # zero terminal SNR: 1 / 0 = inf is meant
        recip = 1 / alpha_bar
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": prev,
        "sqrt_alphas_cumprod": np.sqrt(alpha_bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alpha_bar),
        "log_one_minus_alphas_cumprod": np.log1p(-alpha_bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(recip),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(recip - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.append(stand_in, variance[1:])),
        "posterior_mean_coef1": betas * np.sqrt(prev) / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - prev) * np.sqrt(1 - betas) / (1 - alpha_bar),
        "log_betas_clipped": np.log(np.append(stand_in, betas[1:])),
    }
    dtype = jnp.result_type(float)  # float32, or float64 where x64 is enabled
    return Schedule(
        timesteps=jnp.asarray(kept, jnp.int32),
        **{name: jnp.asarray(table, dtype) for name, table in tables.items()},
    )


def _checked_timesteps(timesteps: np.ndarray, num_steps: int) -> np.ndarray:
    kept = np.asarray(timesteps)
    if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
        raise ValueError(
            "timesteps must be a non-empty vector of integers; "
            f"got shape {kept.shape}, {kept.dtype}"
        )
    if kept[0] < 0 or kept[-1] >= num_steps or np.any(np.diff(kept) <= 0):
        raise ValueError(
            f"timesteps must ascend strictly within 0..{num_steps - 1}; "
            f"got {kept[0]}..{kept[-1]}"
        )
    return kept


def _check_finite(alpha_bar: np.ndarray) -> None:
    """Raises ValueError if a table would be NaN, or infinite but for terminal SNR 0."""
    if alpha_bar[0] == 1:
        raise ValueError("the first beta must be at least 1e-15: 1 - beta is 1 here")
    lost = np.flatnonzero(alpha_bar < 1e-76)  # 1 / sqrt is infinite in float32
    if lost.size and (lost[0] < len(alpha_bar) - 1 or alpha_bar[-1] > 0):
        raise ValueError(
            f"the betas are too large for so many steps: from step {lost[0]} of "
            f"{len(alpha_bar)} on x_t holds nothing of x_0 (alpha_bar is "
            f"{alpha_bar[lost[0]]:.2g}); only the last may hold exactly nothing"
        )

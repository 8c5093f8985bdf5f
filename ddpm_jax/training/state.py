"""All that a training run needs to go on, and how one update changes the weights."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ddpm_jax.training.clipping import clip_by_global_norm


class TrainState(flax.struct.PyTreeNode):
    """A pytree; a checkpoint is this and nothing else."""

    step: jax.Array  # () int32, updates done so far
    params: Any  # float32, the network's
    ema_params: Any  # float32 running average of params, which every sample uses
    opt_state: Any
    steps_state: Any  # of the StepSampler that chooses t
    skipped: jax.Array  # () int32, updates left out because they were not finite
    key: jax.Array  # never advanced: update s draws from fold_in(key, s)


def init_state(
    key: jax.Array, params: Any, tx: optax.GradientTransformation, steps_state: Any
) -> TrainState:
    """The state before the first update. Keeps `key`; no update consumes it whole.

    The average starts as a copy, never as an alias, of the parameters: donated buffers
    may not be held twice.

    Args:
        key: of the run, ().
        params: a pytree, float32.
        tx: the optimiser.
        steps_state: that of the step sampler.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params),
        opt_state=tx.init(params),
        steps_state=steps_state,
        skipped=jnp.zeros((), jnp.int32),
        key=key,
    )


def adam(
    *,
    learning_rate: float,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam (AdamW where weight_decay > 0) after clipping by the global norm.

    The rate rises linearly from 0 over `warmup_steps`, so that the first update has
    rate 0 (Ho et al. 2020, appendix B), then stays, or falls as a cosine to 0 at
    `decay_steps`.
    """
    rate: optax.Schedule = optax.constant_schedule(learning_rate)
    if decay_steps is not None:
        rate = optax.cosine_decay_schedule(learning_rate, decay_steps - warmup_steps)
    if warmup_steps:
        rise = optax.linear_schedule(0, learning_rate, warmup_steps)
        rate = optax.join_schedules([rise, rate], [warmup_steps])
    parts = [] if clip_norm is None else [clip_by_global_norm(clip_norm)]
    parts.append(optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts)

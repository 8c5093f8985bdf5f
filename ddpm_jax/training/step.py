"""One update of the weights (Ho et al. 2020, algorithm 1), as a pure function.

All randomness belongs to an example: it comes from the seed's key, the step and the
example's place in the global batch. The same batch therefore gives the same loss and
gradient on one device or many, whole or in micro-batches, under jit or pmap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.data.batches import random_flip, to_float
from ddpm_jax.diffusion.importance import StepSampler
from ddpm_jax.diffusion.losses import Loss
from ddpm_jax.diffusion.noise import fold_in
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.training.clipping import global_norm
from ddpm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


Array = jax.Array | np.ndarray
AxisName = str | tuple[str, ...]


class Batch(NamedTuple):
    """Examples of one update, before augmentation.

    Attributes:
        image: (b, h, w, c) uint8.
        label: (b,) int32; None = there are none.
        place: in the global batch, (b,) int32.
    """

    image: Array
    label: Array | None
    place: Array


class ExampleKeys(NamedTuple):
    """One key per example, (b,) each, for each thing that is drawn."""

    flip: jax.Array
    step: jax.Array
    noise: jax.Array
    dropout: jax.Array
    label: jax.Array


Apply = Callable[..., Any]  # flax.linen.Module.apply of the network


def example_keys(key: jax.Array, place: Array) -> ExampleKeys:
    """The keys of the examples at these places of the global batch. Consumes `key`.

    Args:
        key: of the update, ().
        place: in the global batch, (b,).

    Returns:
        Keys, (b,) each.
    """
    own = jax.vmap(fold_in, in_axes=(None, 0))(key, place)
    split = jax.vmap(lambda k: jax.random.split(k, len(ExampleKeys._fields)))(own)
    return ExampleKeys(*split.T)


def make_train_step(
    apply: Apply,
    schedule: Schedule,
    tx: optax.GradientTransformation,
    *,
    loss: Loss,
    step_sampler: StepSampler,
    ema_decay: float,
    ema_warmup: bool = False,
    flip: bool = False,
    label_dropout: float = 0.0,
    null_label: int | None = None,
    accumulate: int = 1,
    unroll: int | bool = 1,
    skip_nonfinite: bool = False,
    batched: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the pure `train_step(state, batch, *, axis_name=None)`, not jitted.

    Args:
        apply: the network's apply; called with train=True and one dropout key each.
        loss: (schedule, x0, xt, t, noise, output) -> (batch,): `losses.simple_loss` of
            `ddpm_jax.diffusion`, its `hybrid_loss` or `vlb_term`, or a partial of one.
        step_sampler: chooses the step t of each example.
        ema_decay: ema <- decay ema + (1 - decay) params, after the update.
        ema_warmup: after s updates the decay is at most (1 + s) / (10 + s), as in
            TensorFlow's `ExponentialMovingAverage`: the initial weights soon count for
            nothing, and from s = 9 / (1 - decay) on nothing differs.
        flip: mirror each image with probability 1/2.
        label_dropout: probability of replacing a label by `null_label`.
        accumulate: micro-batches whose gradients are averaged; must divide the batch.
        unroll: of the loop over them. XLA's CPU backend runs convolutions in a loop
            tens of times slower, so there True is the right value.
        batched: `apply` takes the whole batch, and the dropout keys of its examples as
            `dropout_keys`; otherwise it is called with one example at a time, under
            `vmap`, which is slower.
        skip_nonfinite: leave the weights as they were where the loss or the gradient is
            not finite, and count it in `state.skipped`.
    """

    def per_example_loss(params, batch: Batch, keys: ExampleKeys, t):
        image = jnp.asarray(batch.image)
        image = random_flip(keys.flip, image) if flip else image
        x0 = to_float(image)
        noise = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(keys.noise)
        label = batch.label
        if label is not None and null_label is not None and label_dropout:
            hidden = jax.vmap(lambda k: jax.random.bernoulli(k, label_dropout))
            label = jnp.where(hidden(keys.label), null_label, label)
        xt = q_sample(schedule, x0, t, noise)
        steps = schedule.timesteps[t]
        if batched:
            dropout = {"dropout_keys": keys.dropout}
            output = apply({"params": params}, xt, steps, label, True, **dropout)
        else:
            output = _apply_each(apply, params, xt, steps, label, keys)
        return loss(schedule, x0, xt, t, noise, output)

    def micro_step(state: TrainState, batch: Batch):
        """Mean weighted loss, its gradient, and (t, loss) of each example."""
        keys = example_keys(fold_in(state.key, state.step), batch.place)
        t, weight = step_sampler.draw(state.steps_state, keys.step)

        def mean_loss(params):
            losses = per_example_loss(params, batch, keys, t)
            return jnp.mean(losses * weight), losses

        (mean, losses), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params
        )
        return (mean, grads), (t, losses)

    def train_step(
        state: TrainState, batch: Batch, *, axis_name: AxisName | None = None
    ) -> tuple[TrainState, Metrics]:
        if accumulate == 1:
            (mean, grads), drawn = micro_step(state, batch)
        else:
            (mean, grads), drawn = _accumulate(
                lambda micro: micro_step(state, micro), batch, accumulate, unroll
            )
        place = jnp.asarray(batch.place)
        if axis_name is not None:
            mean, grads = jax.lax.pmean((mean, grads), axis_name)
            drawn = jax.lax.all_gather(drawn, axis_name, tiled=True)
            place = jax.lax.all_gather(place, axis_name, tiled=True)
        metrics = {"loss": mean, "grad_norm": global_norm(grads)}
        rate: Any = 1 - ema_decay
        if ema_warmup:
            rate = jnp.maximum(rate, 9.0 / (10 + state.step))
        updated = _update(state, grads, tx, rate)
        # Processes bring their examples in turn; a history must not depend on that.
        t, losses = jax.tree.map(lambda x: x[jnp.argsort(place)], drawn)
        updated = updated.replace(
            steps_state=step_sampler.update(state.steps_state, t, losses)
        )
        if skip_nonfinite:
            finite = jnp.isfinite(mean) & jnp.isfinite(metrics["grad_norm"])
            updated = _keep_if(finite, updated, state)
            metrics["skipped"] = updated.skipped
        return updated.replace(step=state.step + 1), metrics

    return train_step


def _apply_each(apply, params, xt, t, label, keys: ExampleKeys):
    """The network on a batch, each example with a dropout key of its own."""

    def one(x, t, label, key):
        label = None if label is None else label[None]
        rngs = {"dropout": key}
        return apply({"params": params}, x[None], t[None], label, True, rngs=rngs)[0]

    return jax.vmap(one)(xt, t, label, keys.dropout)


def _accumulate(micro_step, batch: Batch, count: int, unroll: int | bool):
    """The mean over `count` micro-batches of what `micro_step` returns of each.

    Micro-batch k takes every count-th example, which moves nothing between devices.
    """
    micros = jax.tree.map(
        lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def body(total, micro):
        value, drawn = micro_step(micro)
        return jax.tree.map(jnp.add, total, value), drawn

    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(micro_step, first)[0]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, drawn = jax.lax.scan(body, zeros, micros, unroll=unroll)
    drawn = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), drawn)
    return jax.tree.map(lambda x: x / count, total), drawn


def _update(state: TrainState, grads, tx, ema_rate) -> TrainState:
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = optax.incremental_update(params, state.ema_params, ema_rate)
    return state.replace(params=params, ema_params=ema_params, opt_state=opt_state)


def _keep_if(good: jax.Array, updated: TrainState, state: TrainState) -> TrainState:
    kept = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        updated.replace(key=None),
        state.replace(key=None),
    )
    skipped = state.skipped + jnp.logical_not(good).astype(jnp.int32)
    return kept.replace(key=state.key, skipped=skipped)

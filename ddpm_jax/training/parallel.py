"""The devices: one mesh, and two runners of the same train step.

A runner owns placement and compilation, nothing else. `jit` sees the global batch, and
the compiler divides the work over the mesh; `pmap` runs the step once per device and
averages the gradients by name. Both give the same loss and gradient to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddpm_jax.data.batches import gather
from ddpm_jax.mesh import BATCH_AXES as BATCH_AXES
from ddpm_jax.mesh import make_mesh as make_mesh
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import Array, Batch, Metrics

SPLIT_SIZE = 2**16  # leaves with fewer elements stay whole under fsdp


class Resident(NamedTuple):
    """A whole data set on the devices."""

    images: jax.Array  # (n, h, w, c) uint8
    labels: jax.Array | None  # (n,) int32


class Chosen(NamedTuple):
    """The examples of one update, named by their index in the resident set."""

    example: Array  # (b,) int32
    place: Array  # (b,) int32


Update = Callable[
    [TrainState, Resident | None, Chosen | Batch], tuple[TrainState, Metrics]
]


class Runner(NamedTuple):
    """How a run drives the step on its devices."""

    lower_state: Callable[[Callable[[], TrainState]], jax.stages.Lowered]
    take_state: Callable[[TrainState], TrainState]  # from what that program makes
    place_data: Callable[[Resident | None], Resident | None]
    update: Update
    # From the shapes of the data and of a global batch: the step's jaxpr, where there
    # is one, and what compiles it, also in another thread, to the update
    ahead: Callable[[Any, Any], tuple[Any, Callable[[], Update]]]
    shardings: Any  # of the state in a checkpoint: arrays over all processes
    to_saved: Callable[[TrainState], TrainState]  # from the run's state
    from_saved: Callable[[TrainState], TrainState]  # to the run's state
    program: Any  # the jitted or pmapped (state, data, batch) -> ..., to be inspected

    def make_state(self, initial: Callable[[], TrainState]) -> TrainState:
        """The first state."""
        return self.take_state(self.lower_state(initial).compile()())


def check_divisible(batch_size: int, accumulate: int, devices: int) -> None:
    """Raises ValueError unless every device gets whole micro-batches."""
    if batch_size % (accumulate * devices):
        raise ValueError(
            f"train.batch_size must be divisible by {accumulate} micro-batches x "
            f"{devices} devices; got {batch_size}"
        )


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Where each leaf of the state lives: whole everywhere, or, if large, split.

    With an fsdp axis of size > 1, a leaf of at least `SPLIT_SIZE` elements is divided
    along its largest dimension that the axis divides: parameters, average and moments
    alike, because the rule sees only shapes.
    """
    size = mesh.shape["fsdp"]

    def sharding(leaf) -> NamedSharding:
        axes: list[str | None] = [None] * len(leaf.shape)
        divisible = [d for d, length in enumerate(leaf.shape) if length % size == 0]
        if size > 1 and divisible and np.prod(leaf.shape) >= SPLIT_SIZE:
            axes[max(divisible, key=lambda d: leaf.shape[d])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(sharding, state)


def fetch(data: Resident | None, batch: Chosen | Batch) -> Batch:
    """The examples themselves: gathered from the resident set, or as they came.

    Args:
        data: the set, where it is on the devices.
        batch: which of its examples; or the examples, (b, h, w, c).

    Raises:
        ValueError: if examples are named and there is no set.
    """
    if isinstance(batch, Batch):
        return batch
    if data is None:
        raise ValueError("a batch of indices needs a resident data set; got None")
    return Batch(*gather(data.images, data.labels, batch.example), batch.place)


def jit_runner(
    train_step: Callable, mesh: Mesh, abstract_state: Any, *, by_hand: bool = False
) -> Runner:
    """The step compiled once for the whole mesh; the state's buffers are donated.

    Args:
        by_hand: divide the batch by `jax.shard_map` and average the gradients by name,
            for a state that is whole on every device. Left to itself, the compiler
            averages the gradient of each micro-batch.
    """
    state_at = state_shardings(mesh, abstract_state)
    everywhere = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def step(state, data, batch):
        return train_step(state, fetch(data, batch))

    if by_hand:
        whole, rows = PartitionSpec(), PartitionSpec(BATCH_AXES)
        # Unchecked, a gradient is that of the device's own examples, as under pmap;
        # checked, it would be summed over the devices already.
        step = jax.shard_map(
            lambda state, data, batch: train_step(
                state, fetch(data, batch), axis_name=BATCH_AXES
            ),
            mesh=mesh,
            in_specs=(whole, whole, rows),
            out_specs=(whole, whole),
            check_vma=False,
        )

    compiled = jax.jit(
        step,
        in_shardings=(state_at, everywhere, divided),
        out_shardings=(state_at, everywhere),
        donate_argnums=0,
    )

    def update_by(program: Callable) -> Update:
        def update(state, data, batch):
            rows = jax.tree.map(
                lambda x: jax.make_array_from_process_local_data(divided, x), batch
            )
            return program(state, data, rows)

        return update

    def ahead(data, batch):
        traced = compiled.trace(abstract_state, data, batch)
        lowered = traced.lower()
        return traced.jaxpr, lambda: update_by(lowered.compile())

    return Runner(
        lower_state=lambda initial: jax.jit(initial, out_shardings=state_at).lower(),
        take_state=lambda state: state,
        place_data=lambda data: _everywhere(data, everywhere),
        update=update_by(compiled),
        ahead=ahead,
        shardings=state_at,
        to_saved=lambda state: state,
        from_saved=lambda state: state,
        program=compiled,
    )


def pmap_runner(train_step: Callable, abstract_state: Any) -> Runner:
    """The step mapped over this process's devices, each with the whole state."""
    devices = jax.local_devices()
    mesh = make_mesh(devices)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step(state, data, batch):
        return train_step(state, fetch(data, batch), axis_name="data")

    mapped = jax.pmap(
        step,
        axis_name="data",
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=0,
    )

    def update(state, data, batch):
        rows = jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch)
        return mapped(state, data, rows)

    # The first state must lie as the later ones do, or the step is traced twice.
    copy = jax.pmap(
        lambda state, _: state, axis_name="data", in_axes=(None, 0), out_axes=None
    )
    place = lambda state: copy(state, np.zeros(len(devices)))  # noqa: E731
    # A checkpoint belongs to all processes; what pmap returns belongs to one of them.
    whole = make_mesh()

    def to_saved(state):
        return multihost_utils.host_local_array_to_global_array(
            state, whole, PartitionSpec()
        )

    def from_saved(state):
        return place(jax.tree.map(lambda x: x.addressable_data(0), state))

    return Runner(
        lower_state=lambda initial: jax.jit(initial).lower(),
        take_state=place,
        place_data=lambda data: jax.device_put(data, everywhere),
        update=update,
        ahead=lambda data, batch: (None, lambda: update),  # compiles at its first call
        shardings=state_shardings(whole, abstract_state),
        to_saved=to_saved,
        from_saved=from_saved,
        program=mapped,
    )


def weights_here(params: Any) -> Any:
    """A whole copy of the weights on one device of this process.

    Every process calls it: weights that are split over devices are put together.
    """

    def whole(x: jax.Array) -> jax.Array:
        if not x.is_fully_replicated:
            mesh = x.sharding.mesh  # type: ignore[attr-defined]
            x = jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
        return x.addressable_data(0)

    return jax.tree.map(whole, params)


def _same(x: jax.Array) -> jax.Array:
    return x


def _everywhere(data: Resident | None, sharding: NamedSharding) -> Resident | None:
    # Every process holds the same data; device_put would first compare all of them.
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda at: x[at]),
        data,
    )

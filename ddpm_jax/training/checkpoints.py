"""Checkpoints of a run: Orbax, and nothing else.

A checkpoint holds three items: `state` (all of the TrainState but the average), `ema`
(the averaged weights, all that sampling needs) and `config`. Saving is asynchronous; a
step becomes visible only when it is complete, so a process that dies while it saves
leaves the step before as the newest one.
"""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from ddpm_jax.training.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another model."""


def open_checkpoints(
    directory: pathlib.Path | str,
    *,
    keep_latest: int = 3,
    keep_every: int | None = None,
    read_only: bool = False,
) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints. Close it (`with`) to wait for the last save.

    Args:
        keep_latest: how many of the newest checkpoints stay.
        keep_every: also keep one of every so many steps; None keeps no more.
        read_only: create, save and delete nothing.
    """
    policies: list[Any] = [keep.LatestN(keep_latest)]
    if keep_every is not None:
        policies.append(keep.EveryNSteps(keep_every))
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that what is read-only is read-only
    try:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        )
        return ocp.CheckpointManager(
            pathlib.Path(directory).absolute(),
            item_names=("state", "ema", "config"),
            options=options,
        )
    finally:
        logger.setLevel(level)


def save(
    manager: ocp.CheckpointManager, state: TrainState, config: dict[str, Any]
) -> bool:
    """Starts to save the state at its step; False if that step is already saved.

    Raises:
        OSError: if the directory cannot be written.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return False
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state.replace(ema_params=None)),
        ema=ocp.args.StandardSave(state.ema_params),
        config=ocp.args.JsonSave(config),
    )
    # Without force Orbax may decide not to save and say so only by returning False.
    if not manager.save(step, args=items, force=True):
        raise OSError(f"Orbax did not save step {step} under {manager.directory}")
    return True


def save_model(
    directory: pathlib.Path | str, step: int, ema_params: Any, config: dict[str, Any]
) -> None:
    """Saves weights alone, as a checkpoint to sample from; waits until it is complete.

    Raises:
        FileExistsError: if the directory holds checkpoints already.
    """
    with open_checkpoints(directory) as manager:
        if manager.all_steps():
            raise FileExistsError(
                f"{directory} holds checkpoints already, of step {manager.all_steps()}"
            )
        items = ocp.args.Composite(
            ema=ocp.args.StandardSave(ema_params), config=ocp.args.JsonSave(config)
        )
        if not manager.save(step, args=items, force=True):
            raise OSError(f"Orbax did not save step {step} under {directory}")


def latest_step(manager: ocp.CheckpointManager) -> int | None:
    """The newest complete step, or None if there is none yet.

    A stray directory whose name is a number is not a checkpoint.
    """
    steps = [
        step
        for step in manager.all_steps()
        if (manager.directory / str(step) / "config").exists()
    ]
    return max(steps, default=None)


def restore_config(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The config that was saved with this step."""
    return _restore(manager, step, "config", ocp.args.JsonRestore())


def restore_ema(manager: ocp.CheckpointManager, step: int, abstract_params: Any) -> Any:
    """The averaged weights of this step, placed as `abstract_params` says."""
    return _restore(manager, step, "ema", ocp.args.StandardRestore(abstract_params))


def restore_state(
    manager: ocp.CheckpointManager, step: int, abstract_state: TrainState
) -> TrainState:
    """The whole state of this step.

    Args:
        abstract_state: a TrainState of ShapeDtypeStructs with their shardings.
    """
    target = abstract_state.replace(ema_params=None)
    state = _restore(manager, step, "state", ocp.args.StandardRestore(target))
    ema_params = restore_ema(manager, step, abstract_state.ema_params)
    return state.replace(ema_params=ema_params)


def abstract(state: Any, shardings: Any) -> Any:
    """Shapes, dtypes and places of a state: what a restore is to produce."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        state,
        shardings,
    )


def _restore(manager: ocp.CheckpointManager, step: int, item: str, args: Any) -> Any:
    place = manager.directory / str(step)
    try:
        return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
    except Exception as error:  # Orbax raises many types; one line must name the thing
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"the {item} of checkpoint {place} cannot be read: {reason}"
        ) from error

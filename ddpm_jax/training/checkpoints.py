"""Checkpoints of a run: Orbax, and nothing else.

A checkpoint holds three items: `state` (all of the TrainState but the average), `ema`
(the averaged weights, all that sampling needs) and `config`, the numbers that it may be
ranked by, and the checksums of its files. Saving is asynchronous; a step takes its name
only when it is complete, so a process that dies while it saves leaves the step before
as the newest one.
"""

import functools
import logging
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from ddpm_jax.training import checksums
from ddpm_jax.training.integrity import ALL as ALL
from ddpm_jax.training.integrity import LOSS, damage
from ddpm_jax.training.integrity import MODEL as MODEL
from ddpm_jax.training.integrity import RAW as RAW
from ddpm_jax.training.integrity import CheckpointError as CheckpointError
from ddpm_jax.training.integrity import check as check
from ddpm_jax.training.integrity import complete_steps as complete_steps
from ddpm_jax.training.integrity import find_good as find_good
from ddpm_jax.training.integrity import set_aside as set_aside
from ddpm_jax.training.state import TrainState

UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax writes under STEP and this


class _Manager(ocp.CheckpointManager):
    """Orbax's; where it opens, it reads the loss of every step, also a damaged one."""

    def metrics(self, step: int) -> Any:
        """What was saved to rank the step by; None where that is lost."""
        place = pathlib.Path(self.directory)
        return None if damage(place, step, [LOSS]) else super().metrics(step)


class _Links:
    """The policy that keeps a step whose folder is a link.

    Orbax would empty what the link leads to, and then fail at the link itself.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any):
        """One answer for each of the checkpoints."""
        return [(self._directory / str(x.step)).is_symlink() for x in checkpoints]


def open_checkpoints(
    directory: pathlib.Path | str,
    *,
    keep_latest: int = 3,
    keep_every: int | None = None,
    keep_best: int = 0,
    rank_by: str = "loss",
    read_only: bool = False,
    item_handlers: dict[str, Any] | None = None,
) -> ocp.CheckpointManager:
    """The manager of a run's checkpoints. Close it (`with`) to wait for the last save.

    Args:
        keep_latest: how many of the newest checkpoints stay.
        keep_every: also keep one of every so many steps; None keeps no more.
        keep_best: also keep so many of the best.
        rank_by: which of the numbers saved with them is lowest of the best; those that
            were saved without it come after all others.
        read_only: create, save and delete nothing.
        item_handlers: Orbax's, by item; None = its own choice.
    """
    directory = pathlib.Path(directory).absolute()
    rank = functools.partial(_rank, name=rank_by)
    policies: list[Any] = [keep.LatestN(keep_latest), _Links(directory)]
    if keep_every is not None:
        policies.append(keep.EveryNSteps(keep_every))
    if keep_best:
        # The last of the order are kept: the lowest losses, after all that are NaN.
        best = keep.BestN(
            get_metric_fn=rank,
            reverse=True,
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        policies.append(best)
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that what is read-only is read-only
    _ignore_late_reports()
    try:
        options = ocp.CheckpointManagerOptions(
            async_options=ocp.AsyncOptions(
                # Orbax calls it when all files are written, just before the step
                # takes its name.
                post_finalization_callback=functools.partial(_add_checksums, directory)
            ),
            preservation_policy=keep.AnyPreservationPolicy(policies),
            best_fn=rank,  # without it the losses are not saved, and a resume has none
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            lightweight_initialize=read_only,  # looks at no step but the one restored
            create=not read_only,
        )
        return _Manager(
            directory,
            item_names=None if item_handlers else ALL,
            item_handlers=item_handlers,
            options=options,
        )
    finally:
        logger.setLevel(level)


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    config: dict[str, Any],
    *,
    loss: float | None = None,
    measured: Mapping[str, float] | None = None,
) -> bool:
    """Starts to save the state at its step; False if that step is already saved.

    Args:
        loss: of training since the checkpoint before.
        measured: what else `rank_by` may name.

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
    metrics = {"loss": math.nan if loss is None else loss}  # not to be the best
    metrics |= measured or {}
    # Without force Orbax may decide not to save and say so only by returning False.
    if not manager.save(step, args=items, metrics=metrics, force=True):
        raise OSError(f"Orbax did not save step {step} under {manager.directory}")
    return True


def save_model(
    directory: pathlib.Path | str, step: int, ema_params: Any, config: dict[str, Any]
) -> None:
    """Saves weights alone, as a checkpoint to sample from; waits until it is complete.

    Args:
        directory: of the run's checkpoints.
        step: updates that it was trained.
        ema_params: the weights.
        config: the run's, as `config.to_dict` makes it.

    Raises:
        FileExistsError: if the directory holds checkpoints already.
        OSError: if it cannot be written.
    """
    # Compression would take most of another copy of the weights in memory.
    handlers = {
        "ema": ocp.PyTreeCheckpointHandler(use_compression=False),
        "config": ocp.JsonCheckpointHandler(),
    }
    with open_checkpoints(directory, item_handlers=handlers) as manager:
        if manager.all_steps():
            raise FileExistsError(
                f"{directory} holds checkpoints already, of step {manager.all_steps()}"
            )
        items = ocp.args.Composite(
            ema=ocp.args.PyTreeSave(ema_params), config=ocp.args.JsonSave(config)
        )
        if not manager.save(step, args=items, force=True):
            raise OSError(f"Orbax did not save step {step} under {directory}")


def latest_step(manager: ocp.CheckpointManager) -> int | None:
    """The newest complete step, or None if there is none yet."""
    return next(iter(complete_steps(pathlib.Path(manager.directory))), None)


def restore_config(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The config that was saved with this step.

    Args:
        manager: of the run's checkpoints.
        step: a complete one.

    Raises:
        CheckpointError: if it cannot be read.
    """
    return _restore(manager, step, "config", ocp.args.JsonRestore())


def stored_config(directory: pathlib.Path) -> dict[str, Any] | None:
    """The config of the newest checkpoint where it is whole; None without any.

    Raises:
        CheckpointError: if there are checkpoints and no config is whole.
    """
    step, _ = find_good(directory, ("config",))
    if step is None:
        return None
    with open_checkpoints(directory, read_only=True) as manager:
        return restore_config(manager, step)


def restore_ema(manager: ocp.CheckpointManager, step: int, abstract_params: Any) -> Any:
    """The averaged weights of this step.

    Args:
        manager: of the run's checkpoints.
        step: a complete one.
        abstract_params: their shapes, dtypes and places.

    Raises:
        CheckpointError: if they cannot be read.
    """
    return _restore(manager, step, "ema", ocp.args.StandardRestore(abstract_params))


def restore_raw(manager: ocp.CheckpointManager, step: int, abstract_params: Any) -> Any:
    """The weights of this step as they were, not averaged; nothing else is read.

    Args:
        manager: of the run's checkpoints.
        step: a complete one.
        abstract_params: their shapes, dtypes and places.

    Raises:
        CheckpointError: if they cannot be read.
    """
    target = {"params": abstract_params}
    args = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    return _restore(manager, step, "state", args)["params"]


def restore_state(
    manager: ocp.CheckpointManager, step: int, abstract_state: TrainState
) -> TrainState:
    """The whole state of this step.

    Args:
        manager: of the run's checkpoints.
        step: a complete one.
        abstract_state: a TrainState of ShapeDtypeStructs with their shardings.

    Raises:
        CheckpointError: if it cannot be read.
    """
    target = abstract_state.replace(ema_params=None)
    state = _restore(manager, step, "state", ocp.args.StandardRestore(target))
    ema_params = restore_ema(manager, step, abstract_state.ema_params)
    return state.replace(ema_params=ema_params)


def check_shapes(
    manager: ocp.CheckpointManager, step: int, params: Any, network: str
) -> None:
    """Raises ValueError unless a network's parameters are named and shaped as saved.

    Of weights that Orbax cannot put there it says only that they cannot be read.
    """
    place = pathlib.Path(manager.directory) / str(step) / "ema"
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata(place).tree)
    given = _shapes(params)
    for name in sorted(saved.keys() | given.keys()):
        theirs, ours = saved.get(name, "none"), given.get(name, "none")
        if theirs != ours:
            raise ValueError(
                f"the network is not the {network} of {manager.directory.parent}"
                f": the shape of {name} is {ours}, there {theirs}"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def abstract(state: Any, shardings: Any) -> Any:
    """Shapes, dtypes and places of a state: what a restore is to produce."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        state,
        shardings,
    )


def _rank(metrics: dict[str, float], *, name: str) -> float:
    value = metrics.get(name, math.inf)
    return value if math.isfinite(value) else math.inf


def _add_checksums(directory: pathlib.Path) -> None:
    newest = next(iter(complete_steps(directory)), None)
    run = checksums.name_run(
        directory, None if newest is None else directory / str(newest)
    )
    for path in directory.glob(f"*{UNFINISHED}*"):
        if path.is_dir():
            checksums.write(path, int(path.name.split(".")[0]), run)


def _restore(manager: ocp.CheckpointManager, step: int, item: str, args: Any) -> Any:
    place = manager.directory / str(step)
    try:
        return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
    except Exception as error:  # Orbax raises many types; one line must name the thing
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"the {item} of checkpoint {place} cannot be read: {reason}"
        ) from error


class _LateReports:
    """What Python does with errors that nobody can catch, but for one of Orbax.

    Orbax closes its event loop when one of many reads or writes has failed; the others
    report to that loop later, each with a traceback that says nothing new.
    """

    def __init__(self, others: Callable[[Any], Any]):
        self._others = others

    def __call__(self, report: Any) -> None:
        if "Event loop is closed" not in str(report.exc_value):
            self._others(report)


def _ignore_late_reports() -> None:
    if not isinstance(sys.unraisablehook, _LateReports):
        sys.unraisablehook = _LateReports(sys.unraisablehook)

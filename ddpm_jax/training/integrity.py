"""Which checkpoints of a run's directory are as they were written; nothing of Orbax."""

import os
import pathlib
from collections.abc import Iterable

from ddpm_jax.training import checksums

MODEL = ("ema", "config")  # the items that a sample needs
RAW = ("state", "config")  # and those of one from weights that are not averaged
ALL = ("state", *MODEL)
LOSS = "metrics"  # Orbax's name for it


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another model."""


def complete_steps(directory: pathlib.Path) -> list[int]:
    """The steps that were saved to their end, newest first.

    A stray directory whose name is a number is not a checkpoint.
    """
    marks = (checksums.NAME, checksums.METADATA)  # one may be lost: that is damage
    return [
        step
        for step in _numbers(directory)
        if any((directory / str(step) / mark).exists() for mark in marks)
    ]


def find_good(
    directory: pathlib.Path, items: Iterable[str] = ALL
) -> tuple[int | None, dict[int, str]]:
    """The newest step whose files are as they were written, and what ails newer ones.

    Among these is one that stands under the name of an older one.

    Raises:
        CheckpointError: if there are checkpoints and none is good.
    """
    items = list(items)
    whole = complete_steps(directory)
    chosen, ailing = None, {}
    for step in _numbers(directory):
        reason = damage(directory, step, items)
        if reason is None:
            chosen = step
            break
        ailing[step] = reason if step in whole else "no complete checkpoint"
    if ailing and complete_steps(directory) != whole:
        return find_good(directory, items)  # a run that goes on has deleted old steps
    if chosen is None and whole:
        raise CheckpointError(
            f"{directory} holds no good checkpoint: in step {whole[0]}, "
            f"{ailing[whole[0]]}"
            + (f"; {len(whole) - 1} more are damaged" if len(whole) > 1 else "")
        )
    for step in whole:
        held = checksums.step_of(directory / str(step))
        if chosen is not None and step < chosen < (held or 0):
            ailing[step] = f"it is the checkpoint of step {held}"
    return chosen, ailing


def check(directory: pathlib.Path, step: int, items: Iterable[str] = ALL) -> None:
    """Raises CheckpointError unless the step's files are as they were written."""
    reason = damage(directory, step, items)
    if reason is not None:
        place = directory / str(step)
        raise CheckpointError(f"checkpoint {place} is damaged: {reason}")


def set_aside(directory: pathlib.Path) -> list[str]:
    """Renames what stands where checkpoints belong and is none; says what and why.

    Damaged steps newer than the newest good one, older ones that are not what they are
    called or have lost their loss, and what else has the name of a step, keep all their
    files under a name that nothing mistakes for a step. One process does this, before
    any opens the directory.

    Raises:
        CheckpointError: if there are checkpoints and none is good.
    """
    good, ailing = find_good(directory)
    whole = complete_steps(directory)
    aside, said = {}, []
    for step in whole:
        reason = ailing.get(step) or damage(directory, step, [], also=[LOSS])
        if step in ailing:
            aside[str(step)] = f"{reason}; going on from step {good}"
        elif reason is not None and step == good:
            said.append(f"checkpoint {directory / str(step)} is not ranked: {reason}")
        # One that has lost its sums was being deleted when the run died; Orbax goes on.
        elif reason is not None and (directory / str(step) / checksums.NAME).exists():
            aside[str(step)] = reason
    for path in directory.glob("*"):
        if path.name.isdecimal() and path.name not in map(str, whole):
            aside[path.name] = "no complete checkpoint"
    for name, reason in aside.items():
        place = directory / f"{name}.damaged"
        while os.path.lexists(place):
            place = place.with_name(place.name + "_")
        (directory / name).rename(place)
        said.append(
            f"checkpoint {directory / name} set aside as {place.name}: {reason}"
        )
    return said


def _numbers(directory: pathlib.Path) -> list[int]:
    """What is called as a step is, newest first."""
    names = (x.name for x in directory.glob("*") if x.name.isdecimal())
    return sorted((int(x) for x in names if x == str(int(x))), reverse=True)


def damage(
    directory: pathlib.Path, step: int, items: Iterable[str], also: Iterable[str] = ()
) -> str | None:
    """What is wrong with a step of this directory, as `checksums.damage` says it."""
    run = checksums.run_of(directory)
    place = directory / str(step)
    return checksums.damage(place, items, also=also, step=step, run=run)

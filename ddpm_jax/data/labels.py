"""Which number stands for which class."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.sources import Example, ImageSource, check_files

SHOWN = 10  # names that a message holds at most


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names sorted as text, but numbers within them as numbers: 1, 2, 10.

    Args:
        names: in any order.

    Returns:
        All of them.

    Examples:
        >>> from ddpm_jax.data import natural_order
        >>> natural_order(["dog10", "dog2", "cat"])
        ('cat', 'dog2', 'dog10')
    """

    def key(name: str) -> tuple[list[str | int], str]:
        # Text and digits take turns, beginning with text: alike is compared with alike.
        parts = re.split(r"([0-9]+)", name)
        return [int(x) if i % 2 else x for i, x in enumerate(parts)], name

    return tuple(sorted(names, key=key))


def relabelled(source: Any, names: Sequence[str]) -> Any:
    """The source with labels that count these names: label i is `names[i]`.

    Args:
        source: an `ImageArrays` or any `ImageSource`.
        names: the classes of the source, in any order.

    Returns:
        A source of the same images.

    Raises:
        ValueError: if they are others.

    Examples:
        >>> from ddpm_jax.data import load_digits, relabelled
        >>> digits = load_digits("test")
        >>> backwards = relabelled(digits, digits.label_names[::-1])
        >>> int(digits.labels[0]), int(backwards.labels[0])
        (5, 4)
    """
    names, theirs = tuple(names), tuple(source.label_names)
    if names == theirs:
        return source
    check_same_classes(source.name, theirs, names)
    order = np.array([names.index(name) for name in theirs], np.int32)
    if isinstance(source, ImageArrays) and source.labels is not None:
        labels = order[source.labels]
        return dataclasses.replace(source, labels=labels, label_names=names)
    return _Relabelled(source, order, names)


def check_same_classes(what: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses another set of classes, in whatever order.

    Args:
        what: is named in the error.
        found: the names that there are.
        wanted: those that there must be.

    Raises:
        ValueError: unless both name the same classes.
    """
    if sorted(found) == sorted(wanted):
        return
    gone = [name for name in wanted if name not in set(found)]
    new = [name for name in found if name not in set(wanted)]
    raise ValueError(
        f"{what}: the classes must be {listed(wanted)}; got {listed(found)} "
        f"(missing: {listed(gone) or 'none'}; new: {listed(new) or 'none'})"
    )


def label_numbers(label: Any, names: Sequence[str] | None) -> Any:
    """A label, or a sequence of them, with the numbers of the names that it holds.

    Text that names no class is a number, unless names are numbers themselves: 10 is
    then never the tenth class. What holds no text comes back as it is.

    Args:
        label: a name, a number, or a sequence of them.
        names: of the classes, in label order; None where they are unknown.

    Returns:
        The same with numbers in 0..n-1 in place of names.

    Raises:
        ValueError: if no class has that name.
    """
    if isinstance(label, str):
        return _number(label, names)
    if isinstance(label, np.ndarray) and label.dtype.kind in "UO":
        label = label.tolist()
    if isinstance(label, (list, tuple)) and any(isinstance(x, str) for x in label):
        return [_number(x, names) if isinstance(x, str) else x for x in label]
    return label


def _number(text: str, names: Sequence[str] | None) -> int:
    if names is not None and text in names:
        return names.index(text)
    if text.isdecimal() and not any(name.isdecimal() for name in names or ()):
        return int(text)
    if names is None:
        raise ValueError(
            "a label must be a number, for the model does not keep the names of its "
            f"classes; got {text!r}"
        )
    close = difflib.get_close_matches(text, names, n=3)
    hint = f"; the nearest are {', '.join(close)}" if close else ""
    raise ValueError(f"a label must be one of {listed(names)}; got {text!r}{hint}")


def listed(names: Sequence[str]) -> str:
    """The names in one line, the first ten of many."""
    shown = ", ".join(names[:SHOWN])
    return shown + (f", ... ({len(names)})" if len(names) > SHOWN else "")


class _Relabelled:
    """A source whose labels are mapped as its examples are read."""

    def __init__(
        self, source: ImageSource, order: np.ndarray, names: tuple[str, ...]
    ) -> None:
        self.source, self.order, self.label_names = source, order, names
        self.name, self.image_shape = source.name, source.image_shape
        self.notes = getattr(source, "notes", ())

    def check_files(self) -> None:
        """As the source that it is made of (see `sources.check_files`)."""
        check_files(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return {**example, "label": self.order[example["label"]]}

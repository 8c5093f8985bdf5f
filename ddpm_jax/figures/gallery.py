"""A grid of pictures with a title above each column and a label beside each row."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.07  # between pictures, in widths of one
BREAK = 0.25  # more of it where a group ends
PAD = 0.08  # inches around everything
LETTER = 0.08  # inches: a little more than the width of one
TEXT_LINE = 0.21  # inches
TEXT: dict[str, Any] = {"fontsize": style.SIZE, "color": style.INK}


def gallery(
    cells: Iterable[Iterable[np.ndarray]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    heading: str = "",
    column_breaks: Collection[int] = (),
    row_breaks: Collection[int] = (),
) -> "Figure":
    """Rows of (h, w, c) uint8 pictures, as wide as a README, enlarged pixel by pixel.

    Args:
        cells: the pictures of every row, as many as there are columns.
        columns: their names.
        rows: their names.
        heading: what the column titles count; stands above them.
        column_breaks: the columns before which there is a wider gap.
        row_breaks: the rows before which there is one.
    """
    across = _places(len(columns), column_breaks)
    down = _places(len(rows), row_breaks)
    # In inches, but for `wide` and `high`, which are in widths of a picture.
    longest = max(map(_letters, rows))
    left = PAD + (LETTER * longest + 0.1 if longest else 0)
    wide, high = across[-1] + 1 - GAP, down[-1] + 1 - GAP
    unit = (style.WIDTH - left - PAD) / wide
    height = PAD + TEXT_LINE * (1 + bool(heading)) + unit * high + PAD

    figure = style.new_figure(height, tight=False)
    size = (unit * wide / style.WIDTH, unit * high / height)
    axes = figure.add_axes((left / style.WIDTH, PAD / height, *size))
    axes.axis("off")
    axes.set(xlim=(0, wide), ylim=(high, 0))
    centre = (1 - GAP) / 2
    for x, name in zip(across, columns, strict=True):
        axes.text(x + centre, -0.06 / unit, name, ha="center", va="bottom", **TEXT)
    for y, name in zip(down, rows, strict=True):
        axes.text(-0.1 / unit, y + centre, name, ha="right", va="center", **TEXT)
    for y, row in zip(down, cells, strict=True):
        for x, picture in zip(across, row, strict=True):
            _show(axes, x, y, picture)
    if heading:
        place = (left / style.WIDTH, 1 - PAD / height)
        figure.text(*place, heading, va="top", **TEXT | {"color": style.FAINT})
    return figure


def _show(axes: "Axes", x: float, y: float, picture: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    side = 1 - GAP
    axes.imshow(
        np.broadcast_to(picture, (*picture.shape[:2], 3)),
        extent=(x, x + side, y + side, y),
        interpolation="nearest",
        aspect="auto",
    )
    # White pixels would run into the page.
    frame: dict[str, Any] = {"fill": False, "edgecolor": style.FRAME, "linewidth": 0.6}
    axes.add_patch(Rectangle((x, y), side, side, clip_on=False, **frame))


def _places(count: int, breaks: Collection[int]) -> list[float]:
    return [i + BREAK * sum(b <= i for b in breaks) for i in range(count)]


def _letters(name: str) -> int:
    """The length of the longest line; what only tells mathtext how does not count."""
    return max(map(len, re.sub(r"[$_{}\\]", "", name).split("\n")))

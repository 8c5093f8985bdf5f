"""The look that all figures share: size, colours, type, and how one is written.

Nothing here touches pyplot or matplotlib's global settings.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ddpm_jax.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 8.0  # inches: at 100 pixels an inch, the width of a README
DPI = 150
INK = "#333333"
FAINT = "#777777"
RULE = "#dddddd"
FRAME = "#999999"
HOLE = (196, 208, 222)  # uint8 RGB of pixels that are not known
# Paul Tol's "muted" scheme, told apart with every kind of colour vision; its cyan is
# darkened, and the light rest left out, because they vanish as lines on white.
COLOURS = ("#332288", "#44AA99", "#CC6677", "#999933", "#882255", "#55A5D0", "#117733")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (7, 2)), "-")
MARKERS = ("o", "s", "^", "D", "v")
SIZE = 10.0  # points
LINE = 1.8  # points


def new_figure(height: float, *, tight: bool = True) -> "Figure":
    """An empty figure, `WIDTH` wide and `height` inches high, with a canvas of its own.

    Args:
        tight: lets matplotlib place the axes; otherwise the caller does.

    Raises:
        ImportError: if matplotlib is not installed; it names the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib: pip install 'ddpm_jax[plots]'"
        ) from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained" if tight else None)
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, height: float = 3.4) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` tidy axes side by side."""
    figure = new_figure(height)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for each in axes:
        tidy(each)
    return figure, axes


def tidy(axes: "Axes") -> None:
    """Two thin spines, a faint grid, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(which="both", color=RULE, labelcolor=INK, labelsize=SIZE - 1)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def curve(
    axes: "Axes", which: int, x: Sequence[float], y: Sequence[float], label: str
) -> None:
    """Line number `which` of a figure, a marker at each of its points."""
    axes.plot(
        x,
        y,
        color=COLOURS[which],
        marker=MARKERS[which],
        linestyle=DASHES[which],
        linewidth=LINE,
        markersize=5,
        label=label,
    )


def label(axes: "Axes", *, x: str, y: str, title: str = "") -> None:
    """Names the axes, in the size and the colour of all text."""
    axes.set_xlabel(x, fontsize=SIZE, color=INK)
    axes.set_ylabel(y, fontsize=SIZE, color=INK)
    axes.set_title(title, fontsize=SIZE, color=INK, loc="left")


def save(figure: "Figure", path: pathlib.Path) -> None:
    """Writes the figure as a PNG on white, as small as it gets."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    with whole_file(path) as file:
        Image.open(drawn).convert("RGB").save(file, format="PNG", optimize=True)

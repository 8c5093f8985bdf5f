"""Curves as SVG, drawn for a page of any width, in light and in dark.

A chart is as wide as a telephone and scales; colours are the page's (style.css).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 26  # around the axes
POINTS = 200  # of a line, at most: each is then a mean of its neighbours
LOG_FROM = 4.0  # ratio of the largest to the smallest value

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve; a value that is not finite is a gap."""

    points: Sequence[Point]
    name: str = ""
    shade: float = 1.0  # opacity


@dataclass(frozen=True)
class _Axis:
    """From a value to a place between two ends, straight or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_up((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def chart(
    lines: Sequence[Line],
    *,
    x: str = "step",
    zero: bool = False,
    log: bool = True,
    marks: Sequence[float] = (),
) -> str:
    """An SVG of the lines; "" where no line has two points.

    Args:
        x: what is counted to the right.
        zero: let the upward axis begin at 0.
        log: make it logarithmic where values are positive and differ enough.
        marks: where to draw upright lines: a run was resumed there.
    """
    lines = [Line(thinned(line.points), line.name, line.shade) for line in lines]
    known = [p for line in lines for p in line.points if math.isfinite(p[1])]
    if len({p[0] for p in known}) < 2:
        return ""
    across = _Axis(min(known)[0], max(known)[0], LEFT, WIDTH - RIGHT)
    up = _upward([y for _, y in known], zero=zero, log=log)
    parts = [_frame(across, up, x)]
    parts += [
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" '
        f'y2="{HEIGHT - BOTTOM}"/>'
        for at in (across.place(m) for m in marks if across.low < m < across.high)
    ]
    parts += [_curve(line, across, up) for line in lines]
    parts += _hover(lines, across, x)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg class="chart" role="img" {size}>{"".join(parts)}</svg>'


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `POINTS` points: means of equally many that follow each other."""
    count = len(points)
    if count <= POINTS:
        return list(points)
    edges = [i * count // POINTS for i in range(POINTS + 1)]
    return [_mean(points[a:b]) for a, b in itertools.pairwise(edges)]


def _mean(points: Sequence[Point]) -> Point:
    finite = [y for _, y in points if math.isfinite(y)]
    y = sum(finite) / len(finite) if finite else math.nan
    return points[-1][0], y


def short(value: float) -> str:
    """A number for a person: 0.0748, 786, 12k, 3.1T."""
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if size >= 10.0**power and (power > 3 or size >= 10_000):
            return f"{value / 10.0**power:.3g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < size < 1e-3 else f"{value:.3g}"


def _upward(values: Sequence[float], *, zero: bool, log: bool) -> _Axis:
    low, high = min(values), max(values)
    bottom, top = HEIGHT - BOTTOM, TOP
    if log and low > 0 and high / low > LOG_FROM:
        room = (high / low) ** 0.04
        return _Axis(low / room, high * room, bottom, top, log=True)
    if zero:
        low = min(low, 0.0)
    room = 0.06 * (high - low) or abs(high) / 2 or 1.0
    return _Axis(low - (0 if zero and low == 0 else room), high + room, bottom, top)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [d * 10.0**p for p in powers for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else []


def _round_up(step: float) -> float:
    """The next 1, 2 or 5 of a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(d * power for d in (1, 2, 5, 10) if d * power >= step * (1 - 1e-9))


def _frame(across: _Axis, up: _Axis, x: str) -> str:
    parts = []
    for value in up.ticks():
        at = up.place(value)
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" '
            f'y2="{at:.1f}"/>'
            f'<text class="up" x="{LEFT - 6}" y="{at + 4:.1f}">{short(value)}</text>'
        )
    base = HEIGHT - BOTTOM
    ticks = [tick for tick in across.ticks() if across.place(tick) < WIDTH - 70]
    for value in ticks:
        parts.append(
            f'<text class="across" x="{across.place(value):.1f}" y="{base + 17}">'
            f"{short(value)}</text>"
        )
    parts.append(
        f'<text class="name" x="{WIDTH - RIGHT}" y="{base + 17}">{escape(x)}</text>'
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" '
        f'y2="{base}"/>'
    )
    return "".join(parts)


def _curve(line: Line, across: _Axis, up: _Axis) -> str:
    """One path, broken where values are not finite; a lone point is a dot."""
    path, pen, dots = [], False, []
    points = list(line.points)
    for i, (x, y) in enumerate(points):
        if not math.isfinite(y) or (up.log and y <= 0):
            pen = False
            continue
        at = f"{across.place(x):.1f} {up.place(y):.1f}"
        path.append(f"{'L' if pen else 'M'}{at}")
        alone = i + 1 == len(points) or not math.isfinite(points[i + 1][1])
        if not pen and alone:
            dots.append(f"M{at}h0")
        pen = True
    return (
        f'<path class="curve" opacity="{line.shade:.2f}" d="{"".join(path + dots)}"/>'
    )


def _hover(lines: Sequence[Line], across: _Axis, x: str) -> list[str]:
    """Columns that show their values under a pointer, without a script."""
    places = sorted({p[0] for line in lines for p in line.points})
    values: dict[float, list[str]] = {place: [] for place in places}
    for line in lines:
        for place, y in line.points:
            values[place].append(f"{line.name} {short(y)}".strip())
    edges = [across.place(place) for place in places]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    starts, ends = [edges[0], *middles], [*middles, edges[-1]]
    return [
        f'<rect class="hover" x="{a:.1f}" y="{TOP}" width="{max(b - a, 0.5):.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(x)} {place:,g}: '
        f"{escape(', '.join(shown))}</title></rect>"
        for a, b, (place, shown) in zip(starts, ends, values.items(), strict=True)
    ]

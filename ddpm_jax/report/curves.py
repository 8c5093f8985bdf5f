"""The sections of a page that metrics.jsonl fills."""

import math
import re
from collections.abc import Sequence

from ddpm_jax.report.charts import Line, chart, short
from ddpm_jax.report.markup import figure, text
from ddpm_jax.report.recorded import Recorded

HELD_OUT = "held_out_loss"
# Metrics by the names of their charts; others, which are distances, follow.
CHARTS = {
    "loss": "Training loss",
    HELD_OUT: "Held-out loss",
    "grad_norm": "Gradient norm",
    "images_per_second": "Images per second",
    "model_flops_per_second": "Model FLOP/s",
    "share_of_peak": "Share of the peak FLOP/s",
    "learning_rate": "Learning rate",
    "skipped": "Updates left out",
}
FROM_ZERO = {"images_per_second", "model_flops_per_second", "share_of_peak", "skipped"}
OF_A_START = {"start_seconds", "compile_seconds"}


def curves(found: Recorded) -> str:
    """A chart of every metric over the updates, and of the loss over the chain."""
    others = [
        name
        for name in found.series
        if name not in CHARTS
        and name not in OF_A_START
        and not name.startswith(HELD_OUT)
    ]
    figures = []
    for name in [*CHARTS, *others]:
        points = list(found.series.get(name, {}).items())
        flat = name == "skipped" and not any(y for _, y in points)
        zero = name in FROM_ZERO
        drawn = chart([Line(points)], zero=zero, log=not zero, marks=found.began)
        if drawn and not flat:
            figures.append(figure(CHARTS.get(name, name), drawn, _range(points)))
    figures += _by_level(found)
    if not figures:
        return ""
    resumed = ", ".join(f"{step:,}" for step in found.began[:20])
    note = (
        f"<p>Upright lines: where the run was resumed ({resumed}).</p>"
        if resumed
        else ""
    )
    return f'{note}<div class="charts">{"".join(figures)}</div>'


def _range(points: Sequence[tuple[int, float]]) -> str:
    finite = [(y, x) for x, y in points if math.isfinite(y)]
    low, high, last = min(finite), max(finite), finite[-1]
    lost = len(points) - len(finite)
    return text(
        f"last {short(last[0])}, lowest {short(low[0])} at {low[1]:,}, highest "
        f"{short(high[0])} at {high[1]:,}" + (f", not finite {lost}" if lost else "")
    )


def _by_level(found: Recorded) -> list[str]:
    """The loss at the steps t that were measured, once for each of some updates."""
    levels = {
        int(level[1]): values
        for name, values in found.series.items()
        if (level := re.fullmatch(rf"{HELD_OUT}/t([0-9]{{1,15}})", name))
    }
    updates = sorted({step for values in levels.values() for step in values})
    if not updates:
        return []
    picked = sorted({updates[round(i * (len(updates) - 1) / 3)] for i in range(4)})
    lines = []
    for i, update in enumerate(picked):
        points = [(t, x[update]) for t, x in sorted(levels.items()) if update in x]
        shade = 0.25 + 0.75 * (i + 1) / len(picked)
        lines.append(Line(points, f"after {update:,}:", shade))
    drawn = chart(lines, x="step t of the chain")
    if not drawn:
        return []
    names = ", ".join(f"{update:,}" for update in picked)
    caption = f"after {names} updates; the last has the strongest line"
    return [figure("Held-out loss by step of the chain", drawn, text(caption))]

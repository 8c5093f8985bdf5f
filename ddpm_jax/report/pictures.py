"""The sections of a page that are pictures: samples, the chain, what was drawn."""

import math
import pathlib
from collections.abc import Sequence

from ddpm_jax.report.chain import Draw
from ddpm_jax.report.charts import POINTS, Line, chart
from ddpm_jax.report.markup import figure, image, text
from ddpm_jax.report.recorded import Recorded
from ddpm_jax.text import reason

TYPES = {".png": "image/png", ".gif": "image/gif"}


def samples(found: Recorded, most: int) -> str:
    """Grids from the first to the last, evenly spaced."""
    steps = list(found.grids)
    if len(steps) > most:
        last = len(steps) - 1
        picked = {round(i * last / max(most - 1, 1)) for i in range(most)} | {last}
        steps = [steps[i] for i in sorted(picked)[-most:]]
    cells = []
    for step in steps:
        if shown := _file(found, found.grids[step], f"samples after step {step:,}"):
            caption = f"<figcaption>step {step:,}</figcaption>"
            cells.append(f"<figure>{shown}{caption}</figure>")
    if not cells:
        return ""
    notes = []
    if found.config is not None:
        sample = found.config.sample
        how = f"{sample.sampler}, {sample.steps or 'all'} steps"
        notes.append(f"Always the same noise, averaged weights; {how}.")
    if len(steps) < len(found.grids):
        notes.append(f"{len(steps)} of {len(found.grids)} grids.")
    note = text(" ".join(notes))
    return f'<p>{note}</p><div class="grids">{"".join(cells)}</div>'


def walked_chain(
    draw: Draw | None, signal: tuple[Sequence[float], Sequence[float]] | None
) -> str:
    """What the schedule leaves of an image, and a draw on its way."""
    parts = []
    if signal is not None:
        apart = math.ceil(len(signal[0]) / POINTS)
        alphas, snr = (list(enumerate(map(float, x)))[::apart] for x in signal)
        line = chart([Line(alphas)], x="step t", zero=True, log=False)
        title = "Signal left: the square of its scale"
        figures = figure(title, line, "ᾱ of step t; 1 is the image, 0 is noise")
        line = chart([Line(snr)], x="step t", log=False)
        figures += figure("Log signal-to-noise ratio", line, "log ᾱ / (1 − ᾱ)")
        parts.append(f'<div class="charts">{figures}</div>')
    if draw is not None:
        parts.append(_walk(draw))
    return "".join(parts)


def _walk(draw: Draw) -> str:
    """A table of pictures: two rows an image, a column a step."""
    head = "".join(f"<th>{t:,}</th>" for t in draw.steps)
    rows = []
    for i, row in enumerate(draw.rows):
        name, what = draw.names[i // 2], "x₀ predicted" if i % 2 else "x at step t"
        cells = "".join(
            f"<td>{image(data, f'{what} at step {t} {name}')}</td>"
            for data, t in zip(row, draw.steps, strict=True)
        )
        title = f"{text(name)} " if name and not i % 2 else ""
        kind = ' class="new"' if not i % 2 else ""
        rows.append(f"<tr{kind}><th>{title}<small>{what}</small></th>{cells}</tr>")
    return (
        f"<p>A draw with {text(draw.how)}: the image at step t, and what the network "
        'takes the clean one to be.</p><div class="wide"><table class="walk">'
        f"<tr><th>t</th>{head}</tr>{''.join(rows)}</table></div>"
    )


def pictures(found: Recorded) -> str:
    """What other commands have drawn into the workdir."""
    cells = []
    for path in found.pictures:
        name = str(path.relative_to(found.workdir))
        if shown := _file(found, path, name):
            caption = f"<figcaption>{text(name)}</figcaption>"
            cells.append(f"<figure>{shown}{caption}</figure>")
    return f'<div class="pictures">{"".join(cells)}</div>' if cells else ""


def _file(found: Recorded, path: pathlib.Path, alt: str) -> str:
    """A picture's bytes as they are, inside the page."""
    try:
        data = path.read_bytes()
    except OSError as error:
        found.notes.append(f"{path.name} cannot be read: {reason(error)}")
        return ""
    return image(data, alt, TYPES[path.suffix])

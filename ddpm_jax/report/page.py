"""The page itself: a section for each thing that there is, in one HTML file.

Nothing is loaded from anywhere: pictures are in the file, and there is no script.
"""

import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_jax.config import Config
from ddpm_jax.report.chain import Draw
from ddpm_jax.report.charts import short
from ddpm_jax.report.curves import HELD_OUT, curves
from ddpm_jax.report.markup import number, part, text
from ddpm_jax.report.pictures import pictures, samples, walked_chain
from ddpm_jax.report.recorded import Recorded
from ddpm_jax.report.tables import config_table, environment_table, evaluations

STYLE = pathlib.Path(__file__).with_name("style.css")


def page(
    found: Recorded,
    *,
    draw: Draw | None,
    signal: tuple[Sequence[float], Sequence[float]] | None,
    versions: Mapping[str, Any],
    grids: int,
) -> str:
    """The page of a run.

    Args:
        draw: a draw from the model; None = none.
        signal: alpha_bar and log SNR of the chain; None = not known.
        versions: with what the page is made.
        grids: how many of the grids of samples are shown, at most.
    """
    name = text(found.workdir.resolve().name)
    sections = [
        ("Samples over time", samples(found, grids)),
        ("Curves", curves(found)),
        ("The chain", walked_chain(draw, signal)),
        ("Pictures in the workdir", pictures(found)),
        ("Evaluation", "".join(evaluations(found))),
        ("Config", "" if found.config is None else config_table(found.config)),
        ("Versions and devices", environment_table(found, versions)),
    ]
    shown = [
        f'<section id="{_anchor(title)}"><h2>{title}</h2>{body}</section>'
        for title, body in sections
        if body
    ]
    links = "".join(
        f'<a href="#{_anchor(title)}">{title}</a>' for title, body in sections if body
    )
    notes = "".join(f"<li>{text(line)}</li>" for line in found.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name}</title><style>{STYLE.read_text()}</style></head><body><main>"
        f"<header><h1>{name}</h1><p>{_subject(found.config)}</p>"
        f"{_facts(found)}<nav>{links}</nav></header>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "\n".join(shown)
        + f"<footer>Written {time.strftime('%Y-%m-%d %H:%M')} from "
        f"{text(found.workdir)}</footer></main></body></html>\n"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _subject(config: Config | None) -> str:
    """What was trained on what, in a line."""
    if config is None:
        return "a run whose config cannot be read"
    data, diffusion = config.data, config.diffusion
    folder = data.path or "a folder"  # an export leaves it out
    named = {"tfds": data.name, "folder": folder, "given": "images from Python"}
    size = f"{data.image_size} × {data.image_size} × {data.channels}"
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    parts = [
        f"{named.get(data.source, data.source)}, {size}{classes}",
        f"{config.network.own or 'U-Net'} that predicts {diffusion.predict}",
        f"{diffusion.schedule.kind} schedule of {diffusion.schedule.num_steps:,} steps",
    ]
    return text(" · ".join(parts))


def _facts(found: Recorded) -> str:
    """The numbers that somebody looks for first."""
    total = found.config.train.num_steps if found.config else None
    done = total is not None and found.step >= total
    trained = found.config is not None and bool(found.series)
    state = f"{found.step:,}"
    if trained and not done:
        state += f" of {total:,}"
    facts = [("complete at step" if done and trained else "step", state)]
    for name, label in (
        ("loss", "training loss"),
        (HELD_OUT, "held-out loss"),
        ("images_per_second", "images per second"),
    ):
        finite = [x for x in found.series.get(name, {}).values() if math.isfinite(x)]
        if finite:
            facts.append((label, short(finite[-1])))
    for record in list(found.evaluations.values())[-1:]:
        row = next(iter(record["metrics"].values()), None)
        if isinstance(row, dict):
            name, samples = str(row.get("shown")), part(record, "samples")
            if samples.get("weights") == "raw":
                name += ", raw weights"
            if type(step := samples.get("trained steps")) is int:
                name += f" at step {step:,}"
            facts.append((name, number(row.get("mean"))))
    if found.checkpoints:
        facts.append(("newest checkpoint", f"{found.checkpoints[-1]:,}"))
    if found.written and not done:
        facts.append(("last metrics", found.written))
    cells = "".join(
        f"<div><dt>{text(a)}</dt><dd>{text(b)}</dd></div>" for a, b in facts
    )
    return f'<dl class="facts">{cells}</dl>'

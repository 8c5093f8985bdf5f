"""Where the bits go: the terms of the variational bound over the steps."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax.evaluation.likelihood.bound import evaluate, summary
from ddpm_jax.figures import style
from ddpm_jax.figures.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(subject: Subject) -> "Figure":
    """The mean term at every step of the model's chain, and their running sum."""
    data = subject.test
    count = min(subject.num, data.num_examples)
    labels = None if data.labels is None else data.labels[:count]
    data = dataclasses.replace(data, images=data.images[:count], labels=labels)
    schedule = subject.model.schedule
    bound = evaluate(subject.key, subject.model, schedule, data)
    total = summary(bound)
    terms, t = bound.terms.mean(0), np.arange(schedule.num_steps)

    figure, (each, running) = style.panels(2)
    line: dict[str, Any] = {"color": style.COLOURS[0], "linewidth": style.LINE}
    dot: dict[str, Any] = {"color": style.COLOURS[2], "marker": "o", "zorder": 3}
    each.plot(t[1:], terms[1:], **line)
    each.plot(t[:1], terms[:1], clip_on=False, **dot)
    each.set_yscale("log")
    each.annotate(
        "decoder, $t = 0$",
        (0, terms[0]),
        (10, 2),
        textcoords="offset points",
        fontsize=style.SIZE - 1,
        color=style.COLOURS[2],
    )
    style.label(each, x="step $t$", y="bits/dim", title="term of the bound")
    running.plot(t, np.cumsum(terms), **line)
    running.plot(t[:1], terms[:1], clip_on=False, **dot)
    running.set_ylim(0, None)
    title = f"sum up to $t$: {total['bits_per_dim']:.2f} bits/dim in all"
    style.label(running, x="step $t$", y="bits/dim", title=title)
    return figure

"""The variance of a reverse step: its two bounds, and what a model has between them."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.figures import style
from ddpm_jax.figures.subject import Subject, real

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 40  # steps, even in log t
APART = 1e-3  # of the bounds' logarithms, which float32 has to tell apart


def draw(subject: Subject) -> "Figure":
    """beta, beta~ and the model's variance by step, and its share of the way in logs.

    The share is 0 at beta~ and 1 at beta: that of a fixed variance is one of them. It
    is drawn where the bounds differ by a thousandth.
    """
    schedule = subject.model.schedule
    last = schedule.num_steps - 1
    steps = np.unique(np.geomspace(1, last, SHOWN).round().astype(int))
    # At t = 0 no noise is added, and beta~ is 0.
    low = np.log(np.asarray(schedule.posterior_variance, np.float64)[steps])
    high = np.log(np.asarray(schedule.betas, np.float64)[steps])
    own = log_variances(subject, steps)  # (steps, pixels of all images)
    apart = high - low > APART
    share = (own - low[:, None])[apart] / (high - low)[apart, None]

    figure, (bounds, between) = style.panels(2)
    looks: list[dict[str, Any]] = [
        {"color": style.COLOURS[i], "linestyle": style.DASHES[i]} for i in range(3)
    ]
    model = f"the model: {subject.model.config.diffusion.variance}"
    names = ("$\\beta_t$", "$\\tilde\\beta_t$", model)
    lines = (high, low, own.mean(1))
    for name, line, look in zip(names, lines, looks, strict=True):
        bounds.plot(steps, np.exp(line), label=name, linewidth=style.LINE, **look)
    bounds.set(xscale="log", yscale="log")
    bounds.legend(frameon=False, fontsize=style.SIZE - 1, labelcolor=style.INK)
    style.label(bounds, x="step $t$", y="variance", title="of a reverse step")
    _spread(between, steps[apart], share, looks[2])
    return figure


def log_variances(subject: Subject, steps: np.ndarray) -> np.ndarray:
    """The model's log-variance at every pixel of the first test images, noised.

    Args:
        steps: (k,) indices of the schedule.

    Returns:
        (k, pixels), float64.
    """
    model, data = subject.model, subject.test
    count = min(subject.num, data.num_examples)
    x0 = real(data)[:count]
    labels = None
    if model.config.data.num_classes is not None and data.labels is not None:
        labels = jnp.asarray(data.labels[:count])
    denoise, schedule = model.denoiser(labels, num=count), model.schedule

    @jax.jit
    def at(denoise, t):
        noise = jax.random.normal(jax.random.fold_in(subject.key, t), x0.shape)
        xt = q_sample(schedule, x0, t, noise)
        found = denoise(schedule, xt, t).variance.log_variance
        return jnp.broadcast_to(found, x0.shape).ravel()

    found = [np.asarray(at(denoise, t), np.float64) for t in jnp.asarray(steps)]
    return np.stack(found)


def _spread(
    axes: "Axes", steps: np.ndarray, share: np.ndarray, look: dict[str, Any]
) -> None:
    """The mean share, and where the middle eight tenths of the pixels lie."""
    low, high = np.percentile(share, (10, 90), axis=1)
    axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axes.plot(steps, share.mean(1), linewidth=style.LINE, **look)
    for level, name in ((0, "$\\tilde\\beta_t$"), (1, "$\\beta_t$")):
        axes.axhline(level, color=style.FAINT, linewidth=1)
        axes.annotate(
            name,
            (0.02, level),
            (0, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=style.SIZE,
            color=style.FAINT,
        )
    axes.set(xscale="log", ylim=(min(-0.1, low.min()), max(1.15, high.max())))
    title = "between the bounds: 80 % of the pixels"
    style.label(axes, x="step $t$", y="share, in logarithms", title=title)

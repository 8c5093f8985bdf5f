"""The signal that every schedule leaves at a step, and its log-SNR."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax import build
from ddpm_jax.diffusion.schedules import make_schedule
from ddpm_jax.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(num_steps: int = 1000) -> "Figure":
    """alpha_bar and log SNR over t / T for every kind of betas, at its defaults."""
    kinds = {name: betas for name, betas in build.BETAS.items() if name != "explicit"}
    figure, (signal, snr) = style.panels(2, height=3.9)
    t = np.arange(1, num_steps + 1) / num_steps  # t / T counted as the paper does
    for i, (name, betas) in enumerate(kinds.items()):
        schedule = make_schedule(betas(num_steps))
        look: dict[str, Any] = {
            "color": style.COLOURS[i],
            "linestyle": style.DASHES[i],
            "linewidth": style.LINE,
            "label": name,
        }
        signal.plot(t, schedule.alphas_cumprod, **look)
        with np.errstate(divide="ignore"):  # zero terminal SNR: no point at the end
            log_snr = -2 * np.log(np.asarray(schedule.sqrt_recipm1_alphas_cumprod))
        snr.plot(t, log_snr, **look)
    style.label(signal, x="$t\\,/\\,T$", y="$\\bar\\alpha_t$", title="signal left")
    style.label(
        snr,
        x="$t\\,/\\,T$",
        y="$\\log\\,\\bar\\alpha_t/(1-\\bar\\alpha_t)$",
        title="log signal-to-noise ratio",
    )
    snr.set_ylim(-13, 11)
    figure.legend(
        *signal.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(kinds),
        frameon=False,
        fontsize=style.SIZE - 1,
        labelcolor=style.INK,
        handlelength=2.4,
        columnspacing=1.1,
        handletextpad=0.5,
    )
    return figure

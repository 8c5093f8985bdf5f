"""What a network is asked to predict along the chain: eps, x_0 or v."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import build
from ddpm_jax.diffusion.transitions import q_sample
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, pick, real
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10  # steps
NAMES = {"eps": "$\\epsilon$", "x0": "$x_0$", "v": "$v$"}


def draw(subject: Subject) -> "Figure":
    """x_t of one image with one noise, and below it the target of each kind."""
    schedule = subject.model.schedule
    image = real(pick(subject, 1))
    noise = jax.random.normal(jax.random.fold_in(subject.key, 1), image.shape)
    steps = np.unique(np.linspace(0, schedule.num_steps - 1, SHOWN).round().astype(int))
    t = jnp.asarray(steps)
    x0, eps = (jnp.broadcast_to(x, (len(t), *x.shape[1:])) for x in (image, noise))
    targets = [build.PREDICT[name].target(schedule, x0, t, eps) for name in NAMES]
    rows = [to_uint8(x) for x in (q_sample(schedule, x0, t, eps), *targets)]
    return gallery(
        rows,
        columns=[str(step) for step in steps],
        rows=["$x_t$", *(f"target {name}" for name in NAMES.values())],
        heading="step $t$",
        row_breaks=(1,),
    )

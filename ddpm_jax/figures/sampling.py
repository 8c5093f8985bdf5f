"""The sampling loop: x_t, and what the network takes x_0 to be at that step."""

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import build
from ddpm_jax.diffusion.closures import as_closure
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.noise import draw_noise, fold_in
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.figures.gallery import gallery
from ddpm_jax.figures.subject import Subject, class_names
from ddpm_jax.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10  # steps
IMAGES = 2


def draw(subject: Subject) -> "Figure":
    """Two draws by ancestral sampling, each as a row of x_t over a row of x_0."""
    model = subject.model
    classes = model.config.data.num_classes
    labels, names = None, [""] * IMAGES
    if classes is not None:
        chosen = [(subject.seed + 3 + 4 * i) % classes for i in range(IMAGES)]
        labels = jnp.asarray(chosen, jnp.int32)
        names = [f"“{name}”, " for name in class_names(subject, chosen)]
    shown = shown_indices(model.schedule.num_steps)
    walked = walk(
        build.image_keys(subject.key, 0, IMAGES),
        model.denoiser(labels, num=IMAGES),
        model.schedule,
        build.make_sampler("ddpm"),
        (IMAGES, *subject.train.image_shape),
        shown,
    )
    x, x0 = (to_uint8(np.stack(each, axis=1)) for each in zip(*walked, strict=True))
    cells = [row for pair in zip(x, x0, strict=True) for row in pair]
    texts = ["$x_t$", "predicted $x_0$"]
    return gallery(
        cells,
        columns=[str(i) for i in shown],
        rows=[f"{name}{text}" for name in names for text in texts],
        heading="step $t$",
        row_breaks=range(2, 2 * IMAGES, 2),
    )


def shown_indices(num_steps: int) -> list[int]:
    """Indices from the last down to 0, closer together towards the end."""
    ascending = np.linspace(0, 1, SHOWN) ** 1.5 * (num_steps - 1)
    return sorted({round(i) for i in ascending}, reverse=True)


def walk(
    key: jax.Array,
    denoise: Denoiser,
    schedule: Schedule,
    sampler: Sampler,
    shape: tuple[int, ...],
    shown: list[int],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(x_t, x_0 predicted from it) at each index of `shown`, of what `sample` draws.

    Args:
        key: one key, ().
        denoise: the model.
        schedule: the chain.
        sampler: the way down it.
        shape: (b, h, w, c).
        shown: descending, the last one 0.

    Returns:
        Pairs of (b, h, w, c).
    """
    like = jax.ShapeDtypeStruct(shape, schedule.betas.dtype)
    x = draw_noise(fold_in(key, schedule.num_steps), like)
    state, upper, walked = sampler.init(schedule, x), schedule.num_steps, []
    down = partial(_down, key, denoise, schedule, as_closure(sampler.step))
    for index in shown:
        state, _ = down(state, upper, index + 1)
        x = state.x
        state, x0 = down(state, index + 1, index)
        walked.append((np.asarray(x), np.asarray(x0)))
        upper = index
    return walked


@jax.jit
def _down(key, denoise, schedule, step, state, upper, lower):
    """The state after the steps upper - 1..lower, and the x_0 last predicted."""

    def body(done, carry):
        i = upper - 1 - done
        state, info = step(fold_in(key, i), denoise, schedule, carry[0], i)
        return state, info.x0

    start = state, jnp.zeros_like(state.x)
    return jax.lax.fori_loop(0, upper - lower, body, start)

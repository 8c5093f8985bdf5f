"""Pictures of a model's chain: what its schedule leaves, and a draw on its way."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ddpm_jax import build
from ddpm_jax.config import Config
from ddpm_jax.diffusion.noise import threefry_key
from ddpm_jax.figures.sampling import shown_indices, walk
from ddpm_jax.images import to_uint8
from ddpm_jax.model import Model

STEPS = 50  # of the chain that is drawn, at most
IMAGES = 3
LARGE = 128  # pixels, from which on there is one image


@dataclass(frozen=True)
class Draw:
    """Some images on their way from noise, each as PNG files."""

    how: str  # sampler and steps
    steps: list[int]  # t, descending
    names: list[str]  # of the images
    rows: list[list[bytes]]  # two of an image: x_t, and x_0 as predicted from it


def signal(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """alpha_bar_t and log alpha_bar_t / (1 - alpha_bar_t), (T,) each."""
    schedule = build.make_schedule(config.diffusion.schedule)
    alphas = np.asarray(schedule.alphas_cumprod, np.float64)
    with np.errstate(divide="ignore"):
        snr = -2 * np.log(np.asarray(schedule.sqrt_recipm1_alphas_cumprod, np.float64))
    return alphas, snr


def reverse(model: Model) -> Draw:
    """Draws with the sampler of the run's own grids, in no more than `STEPS` steps."""
    import jax  # where a page has no chain, none of its devices is touched

    config = model.config
    name, total = config.sample.sampler, model.schedule.num_steps
    steps = min(config.sample.steps or total, STEPS, total)
    sampler, schedule = model.walk(name, steps)
    num = 1 if config.data.image_size >= LARGE else IMAGES
    classes, names, label = config.data.num_classes, [""] * num, None
    if classes is not None:
        label = np.arange(1, num + 1) * 3 % classes
        known = config.data.class_names
        names = [str(i) if known is None else known[i] for i in label]
    walked = walk(
        build.image_keys(threefry_key(jax.random.key(0)), 0, num),
        model.denoiser(label, num=num),
        schedule,
        sampler,
        (num, *model.image_shape),
        shown_indices(schedule.num_steps),
    )
    x, x0 = (to_uint8(np.stack(each, axis=1)) for each in zip(*walked, strict=True))
    told = np.asarray(schedule.timesteps)[shown_indices(schedule.num_steps)]
    rows = [_pngs(row) for pair in zip(x, x0, strict=True) for row in pair]
    return Draw(f"{name}, {schedule.num_steps} steps", told.tolist(), names, rows)


def _pngs(images: Sequence[np.ndarray]) -> list[bytes]:
    """Each (h, w, c) uint8 image as the bytes of a PNG file."""
    files = []
    for image in images:
        file = io.BytesIO()
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture.save(file, format="PNG", optimize=True)
        files.append(file.getvalue())
    return files

"""Draws images from a trained model: python sample.py --workdir runs/digits."""

import dataclasses
import pathlib

import jax
import numpy as np
import tyro
from tqdm import tqdm

import ddpm_jax
from ddpm_jax import build, images
from ddpm_jax.command import one_line_errors, use_compilation_cache

FRAMES = 40  # pictures of the reverse chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Draws images from the averaged weights of a run, as a PNG grid."""

    workdir: pathlib.Path  # the run
    out: pathlib.Path | None = None  # where to write; None = WORKDIR/drawn
    num: int = 64  # how many images
    batch_size: int = 64  # drawn at a time; the images do not depend on it
    seed: int = 0  # image i of a seed is always the same image
    sampler: str = "ddpm"  # ddpm, ddim, dpm_solver_pp or heun
    steps: int | None = None  # steps of the reverse chain; None = all
    spacing: str = "uniform"  # which steps: uniform, ddim, quadratic, trailing, ...
    eta: float = 0.0  # ddim: 0 = deterministic, 1 = as noisy as ddpm
    label: int | None = None  # of every image; None = no label
    guidance: float | None = None  # scale of classifier-free guidance; needs a label
    png: bool = False  # also write every image as a PNG
    npz: bool = False  # also write samples.npz: uint8 (num, h, w, c)
    strip: bool = False  # also write the reverse chain of 8 images side by side
    gif: bool = False  # also write the reverse chain of the first batch, moving


def main(options: Options) -> None:
    """Draws, shows progress, writes."""
    if options.num < 1 or options.batch_size < 1:
        raise ValueError(
            "--num and --batch-size must be at least 1; "
            f"got {options.num} and {options.batch_size}"
        )
    model = ddpm_jax.load(options.workdir)
    sampler = build.make_sampler(
        model.config.diffusion, options.sampler, eta=options.eta
    )
    steps = options.steps or model.schedule.num_steps
    out = options.out or options.workdir / "drawn"
    out.mkdir(parents=True, exist_ok=True)
    origin = {**dataclasses.asdict(options), "trained steps": model.step}

    drawn, frames = [], []
    bar = tqdm(total=steps * -(-options.num // options.batch_size), unit="step")
    for first in range(0, options.num, options.batch_size):
        walk = model.sample_iter(
            jax.random.key(options.seed),
            min(options.batch_size, options.num - first),
            first=first,
            every=max(1, steps // FRAMES),
            sampler=sampler,
            steps=options.steps,
            spacing=options.spacing,
            label=options.label,
            guidance=options.guidance,
        )
        left = steps
        for index, x in walk:
            bar.update(left - index)
            left = index
            if first == 0 and (options.strip or options.gif):
                frames.append(images.to_uint8(x))
        drawn.append(images.to_uint8(x))
    bar.close()

    samples = np.concatenate(drawn)
    images.save_png(out / "grid.png", images.grid(samples), origin=origin)
    if options.png:
        for i, image in enumerate(samples):
            images.save_png(out / f"{i:05d}.png", image, enlarge=1, origin=origin)
    if options.npz:
        np.savez_compressed(out / "samples.npz", images=samples)
    if options.strip:
        shown = [frame[:8] for frame in frames[:: max(1, len(frames) // 10)]]
        images.save_png(out / "strip.png", images.strip(shown), origin=origin)
    if options.gif:
        images.save_gif(out / "chain.gif", [images.grid(frame) for frame in frames])
    print(f"drew {options.num} images from step {model.step} into {out}")


if __name__ == "__main__":
    with one_line_errors():
        use_compilation_cache()
        main(tyro.cli(Options))

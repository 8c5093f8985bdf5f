"""Draws images from a trained model: python sample.py --workdir runs/digits."""

import dataclasses
import pathlib

import jax
import numpy as np
import tyro
from tqdm import tqdm

import ddpm_jax
from ddpm_jax import build, drawing, images, processes
from ddpm_jax.command import one_line_errors, use_compilation_cache

FRAMES = 40  # pictures of the reverse chain
SHOWN = 400  # images that a grid holds at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Draws images from the averaged weights of a run, as a PNG grid.

    Killed, the same command goes on where it was. Many processes share the work.
    """

    workdir: pathlib.Path  # the run, or a folder of weights
    out: pathlib.Path | None = None  # where to write; None = WORKDIR/drawn
    num: int = 64  # how many images
    batch_size: int = 64  # drawn at a time; the images do not depend on it
    seed: int = 0  # image i of a seed is always the same image
    sampler: str = "ddpm"  # ddpm, ddim, dpm_solver_pp, unipc or heun
    steps: int | None = None  # steps of the reverse chain; None = all
    spacing: str = "uniform"  # which, with --steps: trailing, logsnr, karras, ...
    eta: float = 0.0  # ddim: 0 = deterministic, 1 = as noisy as ddpm
    label: int | None = None  # of every image; None = no label
    guidance: float | None = None  # scale of classifier-free guidance; needs a label
    png: bool = False  # also write every image as a PNG
    npz: bool = False  # also write samples.npz: uint8 (num, h, w, c)
    strip: bool = False  # also write the reverse chain of 8 images side by side
    gif: bool = False  # also write the reverse chain of the first batch, moving
    distributed: processes.Distributed = dataclasses.field(
        default_factory=processes.Distributed
    )

    def __post_init__(self):
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(
                "--num and --batch-size must be at least 1; "
                f"got {self.num} and {self.batch_size}"
            )
        if self.spacing != "uniform" and self.steps is None:
            raise ValueError(
                f"--spacing {self.spacing} spaces so many --steps; got none"
            )
        if self.num > SHOWN and not (self.png or self.npz):
            raise ValueError(
                f"a grid holds {SHOWN} images: --num {self.num} needs --npz or --png"
            )


def main(options: Options) -> None:
    """Draws, shows progress, writes."""
    model = ddpm_jax.load(options.workdir).over_local_devices()
    chosen = dataclasses.asdict(options)
    how = {x: chosen[x] for x in ("steps", "spacing", "label", "guidance")}
    how["sampler"] = build.make_sampler(
        model.config.diffusion, options.sampler, eta=options.eta
    )
    steps = options.steps or model.schedule.num_steps
    out = options.out or options.workdir / "drawn"
    origin = {x: chosen[x] for x in ("workdir", "seed", "sampler", "eta")}
    origin |= {x: chosen[x] for x in ("steps", "spacing", "label", "guidance")}
    origin |= {"trained steps": model.step}
    parts = drawing.Parts(
        out / "unfinished", {**origin, "num": options.num, "batch": options.batch_size}
    )
    frames: list[np.ndarray] = []
    batches = -(-options.num // options.batch_size)
    moving = processes.is_main() and (options.strip or options.gif)
    if moving:
        parts.path(0).unlink(missing_ok=True)  # its chain is to be seen again
    bar = tqdm(total=steps * batches, unit="step", disable=not processes.is_main())

    def walk(first: int, count: int):
        key, every = jax.random.key(options.seed), max(1, steps // FRAMES)
        return model.sample_iter(key, count, first=first, every=every, **how)

    def progress(first: int, index: int, x: jax.Array) -> None:
        bar.n = steps * (first // options.batch_size + 1) - index
        bar.refresh()
        if moving and first == 0:
            frames.append(images.to_uint8(x))

    drawing.draw_parts(parts, walk, options.num, options.batch_size, progress=progress)
    bar.close()
    if not processes.is_main():
        return

    samples = np.concatenate(list(parts.images(batches)))
    images.save_png(out / "grid.png", images.grid(samples[:SHOWN]), origin=origin)
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
    parts.remove()
    print(f"drew {options.num} images from step {model.step} into {out}")


if __name__ == "__main__":
    with one_line_errors():
        options = tyro.cli(Options)
        processes.start(options.distributed)
        use_compilation_cache()
        main(options)

"""Many images of a model, drawn in batches that any number of processes share.

Batch b of a draw holds images b * batch_size and on. A finished batch is a file, put in
place in one piece; a draw that was killed goes on with the batches that are missing, on
as many processes as there are then. The images are the same, whoever draws them.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from ddpm_jax import build, images, processes
from ddpm_jax.checks import check_count, check_options
from ddpm_jax.files import whole_file
from ddpm_jax.model import Model
from ddpm_jax.ownership import claimed
from ddpm_jax.progress import Progress

FRAMES = 40  # pictures of the reverse chain
SHOWN = 400  # images that a grid holds at most
# What a draw may leave in its folder.
WRITTEN = ("grid.png", "[0-9]" * 5 + "*.png", "samples.npz", "strip.png", "chain.gif")

# (first image, how many) -> their reverse chain, as `Model.sample_iter`.
Walk = Callable[[int, int], Iterator[tuple[int, jax.Array]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """Which images of a model, and how they are drawn.

    Raises:
        ValueError: if an option cannot work; it names it.
    """

    num: int = 64  # how many images
    batch_size: int = 64  # drawn at a time; the images do not depend on it
    seed: int = 0  # image i of a seed is always the same image
    weights: Literal["ema", "raw"] = "ema"  # a run's average, or what it averages
    sampler: str = "ddpm"  # ddpm, ddim, dpm_solver_pp, unipc or heun
    steps: int | None = None  # steps of the reverse chain; None = all
    # Which, with --steps: uniform, trailing, logsnr, karras, heun, ...; None = those
    # that suit the sampler: uniform, or logsnr for dpm_solver_pp and unipc, or heun
    spacing: str | None = None
    # logsnr, karras, heun: where the chain is cut, in log(alpha / sigma), since below
    # there is only noise; -inf = nowhere, None = the spacing's own: -5.1, heun -4.4
    lambda_min: float | None = None
    eta: float = 0.0  # ddim: 0 = deterministic, 1 = as noisy as ddpm
    # ddim: eps again from the clipped x0; diffusers does not. None = as the config says
    rederive: bool | None = None
    # Of every image, or n in turn: image i has number i mod n of them; None = no label.
    # Each the name of a class (where the run keeps names) or its number
    label: tuple[str | int, ...] | None = None
    guidance: float | None = None  # scale of classifier-free guidance; needs a label

    def __post_init__(self):
        check_options(self, but=("lambda_min",))  # -inf is one
        for name in ("num", "batch_size", "steps"):
            check_count(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.steps is None:
            for name in ("spacing", "lambda_min"):
                if (value := getattr(self, name)) not in (None, "uniform"):
                    option = name.replace("_", "-")
                    raise ValueError(
                        f"--{option} {value} spaces so many --steps; got none"
                    )
        if self.label == ():
            raise ValueError("--label must name one class or more; got none")

    @property
    def batches(self) -> int:
        """How many there are; the last may be smaller."""
        return -(-self.num // self.batch_size)

    def labels(self, first: int, count: int) -> np.ndarray | None:
        """The labels of some images.

        Args:
            first: the number of the first.
            count: how many.

        Returns:
            (count,), or None.
        """
        if self.label is None:
            return None
        return np.array(self.label)[np.arange(first, first + count) % len(self.label)]

    def origin(self) -> dict[str, Any]:
        """All that an image depends on, beside the model and its number."""
        names = ["seed", "weights", "sampler", "eta", "rederive", "guidance"]
        names += ["steps", "spacing", "lambda_min"]
        label = self.label and " ".join(map(str, self.label))
        return {name: getattr(self, name) for name in names} | {"label": label}


def walk_of(model: Model, draw: Draw) -> tuple[Walk, int, dict[str, Any]]:
    """How a model draws: the walk, its number of steps, and all that it depends on.

    Raises:
        ValueError: if the model cannot draw so.
    """
    if draw.rederive is not None and draw.sampler != "ddim":
        raise ValueError(
            f"rederive belongs to the sampler ddim; got {draw.rederive} with "
            f"{draw.sampler}"
        )
    steps = draw.steps or model.schedule.num_steps
    walk = walk_by(model, draw, max(1, steps // FRAMES))
    walk(0, len(draw.label or (None,)))  # no step of it: what is refused is refused now
    origin = draw.origin()
    if draw.steps is None:
        origin["spacing"] = None  # all steps are visited
    elif draw.spacing is None:
        betas = np.asarray(model.schedule.betas)
        sampler = build.make_sampler(draw.sampler, eta=draw.eta)
        origin["spacing"] = build.suitable_spacing(sampler, betas)
    origin |= {"trained steps": model.step, "model": digest(model)}
    return walk, steps, origin


def walk_by(model: Model, draw: Draw, every: int) -> Walk:
    """The walk that yields after every so many steps."""
    key = jax.random.key(draw.seed)
    sampler = build.make_sampler(draw.sampler, eta=draw.eta)
    how: dict[str, Any] = {"sampler": sampler, "every": every}
    names = ("steps", "spacing", "lambda_min", "guidance", "rederive")
    how |= {x: getattr(draw, x) for x in names}

    def walk(first: int, count: int) -> Iterator[tuple[int, jax.Array]]:
        label = draw.labels(first, count)
        return model.sample_iter(key, count, first=first, label=label, **how)

    return walk


def digest(model: Any) -> str:
    """SHA-256 of a model: its config, its schedule, its weights."""
    total = hashlib.sha256(repr(model.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        values = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}"
        total.update(name.encode() + values.tobytes())
    return total.hexdigest()


class Parts:
    """The finished batches of one draw, on disk.

    Raises:
        ValueError: if the directory holds what is not of a draw.
    """

    def __init__(self, directory: pathlib.Path, origin: dict[str, Any]):
        """Finds the batches of an earlier try at the same draw; drops any other's.

        Args:
            directory: of the batches alone.
            origin: all that the batches depend on, as JSON.

        Raises:
            ValueError: if the directory holds what is not of a draw.
        """
        self._directory, self._note = directory, directory / "draw.json"
        if processes.is_main():
            ours = json.dumps(origin, sort_keys=True, default=str)
            directory.mkdir(parents=True, exist_ok=True)
            if not self._note.exists() and any(directory.glob("[!.]*")):
                raise ValueError(
                    f"{directory} is where unfinished batches go, and holds other "
                    "files; choose another --out"
                )
            if not self._note.exists() or self._note.read_text() != ours:
                self._drop()
                with whole_file(self._note) as file:
                    file.write(ours.encode())
        processes.barrier("parts")

    def path(self, batch: int) -> pathlib.Path:
        """Where this batch lies when it is finished."""
        return self._directory / f"{batch:06d}.npy"

    def put(self, batch: int, samples: np.ndarray) -> None:
        """Writes a batch, whole or not at all.

        Args:
            batch: its number.
            samples: (b, h, w, c) uint8.
        """
        with whole_file(self.path(batch)) as file:
            np.save(file, samples)

    def images(self, batches: int) -> Iterator[np.ndarray]:
        """The finished batches in order.

        Args:
            batches: how many there are.

        Returns:
            (b, h, w, c) uint8 each.
        """
        return (np.load(self.path(batch)) for batch in range(batches))

    def remove(self) -> None:
        """Deletes them; whatever else lies there stays."""
        self._drop()
        self._note.unlink()  # last: without it the batches would be somebody's files
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def _drop(self) -> None:
        for pattern in ("[0-9]" * 6 + "*.npy", ".*.draft"):
            for path in list(self._directory.glob(pattern)):
                path.unlink()


def draw_parts(
    parts: Parts,
    walk: Walk,
    num: int,
    batch_size: int,
    *,
    to_pixels: Callable[[Any], np.ndarray] = images.to_uint8,
    progress: Callable[[int, int, jax.Array], None] | None = None,
) -> None:
    """Draws the batches of this process that are missing, then waits for the others.

    Args:
        parts: where they lie.
        walk: (first image, how many) -> pairs of an index and x, (b, h, w, c).
        num: how many images.
        batch_size: images of a batch.
        to_pixels: floats in [-1, 1] -> uint8.
        progress: called with (first image, index, x) of every yield.
    """
    process, count = jax.process_index(), jax.process_count()
    for batch in range(process, -(-num // batch_size), count):
        if parts.path(batch).exists():
            continue
        first = batch * batch_size
        for index, x in walk(first, min(batch_size, num - first)):
            if progress is not None:
                progress(first, index, x)
        parts.put(batch, to_pixels(x))
    processes.barrier("drawn")


def draw_watched(
    parts: Parts, walk: Walk, draw: Draw, steps: int, *, chain: bool
) -> list[np.ndarray]:
    """Draws, shows how far; returns the first batch at every yield, if asked to.

    Args:
        parts: where the batches lie.
        walk: as for `draw_parts`.
        draw: what is drawn.
        steps: of one batch.
        chain: whether the main process returns anything.

    Returns:
        (b, h, w, c) uint8 each.
    """
    frames: list[np.ndarray] = []
    moving = chain and processes.is_main()
    if moving:
        parts.path(0).unlink(missing_ok=True)  # its chain is to be seen again
    shown = Progress(
        steps * draw.batches,
        "step",
        images_per_unit=min(draw.batch_size, draw.num) / steps,
        shown=processes.is_main(),
    )

    def progress(first: int, index: int, x: jax.Array) -> None:
        shown.reach(steps * (first // draw.batch_size + 1) - index)
        if moving and first == 0:
            frames.append(images.to_uint8(x))

    with contextlib.closing(shown):
        draw_parts(parts, walk, draw.num, draw.batch_size, progress=progress)
    return frames


def write_pictures(
    out: pathlib.Path,
    parts: Parts,
    draw: Draw,
    frames: list[np.ndarray],
    origin: dict[str, Any],
    *,
    png: bool,
    npz: bool,
    strip: bool,
    gif: bool,
) -> list[str]:
    """Writes a finished draw: the grid, and what else is asked for.

    Args:
        out: the folder.
        parts: the finished batches.
        draw: what was drawn.
        frames: the chain of the first batch, (b, h, w, c) uint8 each.
        origin: what the pictures say of themselves.
        png: whether each image is written as a file.
        npz: whether all are, as arrays.
        strip: whether the chain is, as a picture.
        gif: whether it is, as an animation.

    Returns:
        The names of an earlier draw's files that stay in the folder beside it.
    """
    before = {x.name for pattern in WRITTEN for x in out.glob(pattern)}
    samples = np.concatenate(list(parts.images(draw.batches)))
    grid = images.grid(samples[:SHOWN])
    written = {"grid.png"}
    images.save_png(out / "grid.png", grid, origin=origin)
    if png:
        labels = draw.labels(0, draw.num)
        for i, image in enumerate(samples):
            own = origin if labels is None else {**origin, "label": labels[i]}
            images.save_png(out / f"{i:05d}.png", image, enlarge=1, origin=own)
            written.add(f"{i:05d}.png")
    if npz:
        with whole_file(out / "samples.npz") as file:
            np.savez_compressed(file, images=samples)
        written.add("samples.npz")
    if strip:
        shown = [frame[:8] for frame in frames[:: max(1, len(frames) // 10)]]
        images.save_png(out / "strip.png", images.strip(shown), origin=origin)
        written.add("strip.png")
    if gif:
        images.save_gif(out / "chain.gif", [images.grid(frame) for frame in frames])
        written.add("chain.gif")
    return sorted(before - written)


def draw_into(
    out: pathlib.Path,
    walk: Walk,
    draw: Draw,
    steps: int,
    origin: dict[str, Any],
    **wanted: bool,
) -> str:
    """Draws and writes, with the folder to itself; goes on where an earlier try was.

    Args:
        out: the folder, which is made.
        origin: what the pictures say of themselves, and all that they depend on.
        wanted: as `write_pictures`.

    Returns:
        What to say of files of an earlier draw that lie there too; "" of none.

    Raises:
        OSError: if it cannot be written, or another program holds it.
    """
    sizes = {"num": draw.num, "batch": draw.batch_size}
    stale: list[str] = []
    with claimed(out):
        parts = Parts(out / "unfinished", origin | sizes)
        chain = wanted["strip"] or wanted["gif"]
        frames = draw_watched(parts, walk, draw, steps, chain=chain)
        if processes.is_main():
            stale = write_pictures(out, parts, draw, frames, origin, **wanted)
            parts.remove()
        processes.barrier("written")  # who leaves first would end a main that writes
    return _beside(stale)


def _beside(names: list[str]) -> str:
    if len(names) < 2:
        return f"; {names[0]} of an earlier draw stays there" if names else ""
    some = f"{names[0]} .. {names[-1]}"
    return f"; {len(names)} files of an earlier draw stay there: {some}"

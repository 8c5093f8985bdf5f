"""A whole sampler in one file, weights and all, for programs that have jax alone.

`export_sampler` writes the file; where it is read neither Flax nor this package is
needed, only jax and flatbuffers, which jax reads such files with:

    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    draw = jax.jit(exported.call)  # compiles once for every number of images
    images = draw(seed=0, index=jnp.arange(16), label=jnp.full(16, 7), guidance=2.0)

`exported.in_tree` and `exported.in_avals` say what a file asks for. It is a file to
deploy, not to archive: JAX promises that a jax up to six months newer than the one that
wrote it can read it, or three weeks older. What lasts is the checkpoint.

One file holds less than 2 GiB, weights included, because a flatbuffer does: half a
billion parameters. Writing it takes six times the weights in memory, beside them.
"""

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ddpm_jax.config import Config
from ddpm_jax.diffusion import samplers
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.noise import fold_in, threefry_key
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Schedule

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Where an exported file can run."""

USUAL_PLATFORMS = ("cpu", "cuda", "tpu")
"""Where it can run if nothing is said."""

MOST_BYTES = 2**31 - 2**25
"""Of weights in a flatbuffer, with room for the program."""


class Drawable(Protocol):
    """What is asked of a model, a pytree; `ddpm_jax.Model` is one."""

    @property
    def params(self) -> Any:
        """The weights."""

    @property
    def config(self) -> Config:
        """What the model is."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""

    def denoiser(self, label: Any, guidance: Any) -> Denoiser:
        """The model as a sampler asks it.

        Args:
            label: as `Model.sample` takes it.
            guidance: as `Model.sample` takes it.
        """

    def walk(
        self, sampler: Any, steps: Any, spacing: Any, lambda_min: Any
    ) -> tuple[Sampler, Schedule]:
        """The sampler, and the chain that it walks.

        Args:
            sampler: as `Model.sample` takes it.
            steps: as `Model.sample` takes it.
            spacing: as `Model.sample` takes it.
            lambda_min: as `Model.sample` takes it.
        """


def export_sampler(
    model: Drawable,
    path: pathlib.Path | str,
    *,
    sampler: Sampler | str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
    lambda_min: float | None = None,
    platforms: Sequence[str] = USUAL_PLATFORMS,
) -> None:
    """Writes the sampler of `model` to `path`; the module says how to call it.

    The images are (b, h, w, c) float32 in [-1, 1], for any b: what `model.sample` draws
    from `jax.random.key(seed)`, at the places `index`. The file takes, by name,

        seed      int32 (): which stream of images
        index     int32 (b,): which images of it; image i is the same in any batch
        label     int32 (b,): their classes, or num_classes for "none" where the network
                  has that row; another gives NaN. Class-conditional models only
        guidance  float32 (): the scale; 1 is the conditional model. Models trained with
                  label_dropout only; the network sees every image twice a step

    The file appears whole or not at all, and replaces one that was there.

    Args:
        model: what to draw from.
        path: the file to write.
        sampler: as `Model.sample` takes it; part of the file.
        steps: as `Model.sample` takes it; part of the file.
        spacing: as `Model.sample` takes it; part of the file.
        lambda_min: as `Model.sample` takes it; part of the file.
        platforms: where the file can run, of `PLATFORMS`; one file serves them all.

    Raises:
        ImportError: if flatbuffers is not installed.
        ValueError: if the weights are too large for one file, the schedule has fewer
            steps, a spacing is given without steps, the sampler cannot walk it, or
            there is no such platform.
        FileNotFoundError: if there is no folder for the file.
        OSError: if the file cannot be written.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError(
            "an exported sampler is written with flatbuffers, which is not installed: "
            "pip install 'ddpm_jax[export]'"
        )
    if not platforms or set(platforms) - set(PLATFORMS):
        raise ValueError(
            f"platforms must be some of {', '.join(PLATFORMS)}; got {platforms!r}"
        )
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    if held > MOST_BYTES:
        raise ValueError(
            f"one exported file holds at most {MOST_BYTES:,} bytes of weights; got "
            f"{held:,}: export them as safetensors, and sample from those"
        )
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: no folder {path.parent}")
    draw = jax.jit(_drawing(model, *model.walk(sampler, steps, spacing, lambda_min)))
    with _sources_by_name():
        exported = jax.export.export(draw, platforms=platforms)(**_arguments(model))
    _write(path, exported.serialize())


@contextlib.contextmanager
def _sources_by_name() -> Iterator[None]:
    """Meanwhile a program names the files it was made of without their folders.

    In a home folder these would name a person.
    """
    option = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[option]
    jax.config.update(option, ".*/")
    try:
        yield
    finally:
        jax.config.update(option, before)


def _drawing(
    model: Drawable, sampler: Sampler, schedule: Schedule
) -> Callable[..., jax.Array]:
    """`model.sample` as a function of arrays alone, by keyword."""
    # A program that holds arrays of several devices could not run on one.
    model, schedule = jax.tree.map(jnp.asarray, jax.device_get((model, schedule)))
    # Under the trace nothing is concrete, and the schedule could not be checked.
    sampler.init(schedule, jnp.zeros((1, *model.image_shape)))

    def draw(
        *,
        seed: jax.Array,
        index: jax.Array,
        label: jax.Array | None = None,
        guidance: jax.Array | None = None,
    ) -> jax.Array:
        key = threefry_key(jax.random.key(seed))
        keys = jax.vmap(lambda i: fold_in(key, i))(index)
        denoise = model.denoiser(label, guidance)
        shape = (*index.shape, *model.image_shape)
        return samplers.sample(keys, denoise, schedule, shape, sampler=sampler)

    return draw


def _arguments(model: Drawable) -> dict[str, Any]:
    """The shapes and types of what the file is called with."""
    (batch,) = jax.export.symbolic_shape("b")
    arguments = {
        "seed": jax.ShapeDtypeStruct((), jnp.int32),
        "index": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    if model.config.data.num_classes is not None:
        arguments["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
        if model.config.diffusion.label_dropout > 0:
            arguments["guidance"] = jax.ShapeDtypeStruct((), jnp.float32)
    return arguments


def _write(path: pathlib.Path, content: bytearray) -> None:
    """The file, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

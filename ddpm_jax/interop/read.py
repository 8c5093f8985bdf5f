"""Anyone's weights as a model: from a folder or a file to (config, parameters)."""

import contextlib
import pathlib
import reprlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ddpm_jax.config import Config, from_dict
from ddpm_jax.interop import (
    diffusers_format,
    diffusers_scheduler,
    facts,
    folders,
    keymaps,
    load,
)
from ddpm_jax.interop.diffusers_rules import PRIVATE
from ddpm_jax.interop.facts import Hints, Sources
from ddpm_jax.interop.files import read_state_dict
from ddpm_jax.interop.json_files import read_object
from ddpm_jax.interop.published import published
from ddpm_jax.interop.structure import Layout, Shapes, layout_of, structure_of
from ddpm_jax.interop.tensors import StateDict, read_metadata
from ddpm_jax.text import cause, reason

T = TypeVar("T")


class Weights(NamedTuple):
    """A model that was read from files.

    Attributes:
        config: what it is.
        params: its parameters, NumPy float32.
        step: updates that it was trained; 0 where nothing says so.
        layout: whose layout the files have.
        sources: what each source said of the config: {source: {field: value}}.
        entry: of the file, where that holds more than these weights.
        others: the entries of other weights in it.
    """

    config: Config
    params: Any
    step: int
    layout: str
    sources: Sources
    entry: str = ""
    others: tuple[str, ...] = ()


class Identity(NamedTuple):
    """What a state dict's shapes and the hints make of it."""

    config: Config
    keymap: Callable  # one of `keymaps`
    sources: Sources  # as in `Weights`


def read_model(path: pathlib.Path | str, hints: Hints | None = None) -> Weights:
    """The model in a folder or a file of weights.

    Args:
        path: an archive of `save_archive`; a folder of diffusers' (a pipeline, or a
            UNet2DModel alone); or a file: OpenAI's, Ho's as DDIM's repository has it,
            or one of such a folder.
        hints: what is known of the model otherwise.

    Returns:
        The weights, NumPy float32, and what they are of.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if a file is not whole or of no layout that is known, if nothing
            says what must be known, or if the weights do not fit the network.
        OSError: if a file cannot be read.
        ImportError: if the library that reads it is not installed.
    """
    hints = hints or Hints()
    file = folders.weights_file(pathlib.Path(path))
    with _naming(file):
        tensors, entry, others = read_state_dict(file)
        layout = layout_of(tensors)
    if hints.attention_order is not None and layout != "openai":
        raise ValueError(
            "attention_order is about OpenAI's layout; got it for weights in the "
            f"layout {layout!r}"
        )
    if layout == "ours":
        return _read_archive(file, tensors, hints)
    if layout == "diffusers":
        read = _read_diffusers(file, tensors, hints)
        return read._replace(entry=entry, others=others)
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    with _naming(file):
        config, keymap, sources = identify(shapes, layout, hints)
        params = load.load_params(tensors, config, keymap)
    return Weights(config, params, hints.step or 0, layout, sources, entry, others)


def _read_archive(file: pathlib.Path, tensors: StateDict, hints: Hints) -> Weights:
    """Our own archive: config.json says everything."""
    said = file.with_name("config.json")
    _check_no_hints(hints, said)
    config = _from_json(said, from_dict)
    with _naming(file):
        step = _archive_step(file, tensors)
        params = load.load_params(tensors, config, load.ours)
    return Weights(config, params, step, "ours", {})


def _archive_step(file: pathlib.Path, tensors: StateDict) -> int:
    """Updates of an archive's model; takes the tensor that says it from the others.

    Raises:
        ValueError: if what says it is no count.
    """
    if "step" in tensors:  # .npz files have nothing beside their arrays
        tensor = tensors.pop("step")
        return _checked_step(tensor.read().tolist() if not tensor.shape else None)
    written = "0"
    if file.suffix == ".safetensors":
        written = read_metadata(file).get("step", "0")
    return _checked_step(int(written) if written.isdecimal() else written)


def _checked_step(step: Any) -> int:
    """The number of updates.

    Raises:
        ValueError: if it is none.
    """
    if type(step) is not int or not 0 <= step < 2**53:
        raise ValueError(f"the step must be a count; got {reprlib.repr(step)}")
    return step


def _read_diffusers(file: pathlib.Path, tensors: StateDict, hints: Hints) -> Weights:
    """A UNet2DModel with its config.json, and its scheduler if there is one."""
    tensors = {keymaps.modern_diffusers_key(key): x for key, x in tensors.items()}
    said = file.with_name("config.json")
    unet = _from_json(said, dict)
    folders.check_pipeline(file.parent)
    scheduler = folders.scheduler_file(file.parent)
    if PRIVATE in unet:
        _check_no_hints(hints, said)
        config, step = _from_json(said, diffusers_format.read_private)
        _from_json(said, partial(diffusers_format.check_same, config))
        if scheduler:
            check = partial(diffusers_scheduler.check_same, config.diffusion)
            _from_json(scheduler, check)
        sources: Sources = {}
    else:
        known, structure = _from_json(said, diffusers_format.read_unet)
        known |= facts.labelled(structure.label_rows, hints)
        sources = {"options": facts.hinted(hints), str(said): known}
        if scheduler:
            read = _from_json(scheduler, diffusers_scheduler.read_scheduler)
            sources[str(scheduler)] = read
        sources[facts.GUESSED] = diffusers_scheduler.usual(structure)
        with _naming(said):
            config = facts.to_config(sources, structure)
        step = hints.step or unet.get("optimization_step", 0)  # of an average
    with _naming(said):
        step = _checked_step(step)
    with _naming(file):
        params = load.load_params(tensors, config, keymaps.diffusers)
    return Weights(config, params, step, "diffusers", facts.resolve(sources))


def identify(shapes: Shapes, layout: Layout, hints: Hints) -> Identity:
    """The model that weights of these shapes are of, in OpenAI's or Ho's layout.

    Raises:
        ValueError: if these are not the shapes of such a model, or if nothing says what
            must be known of it.
    """
    structure = structure_of(shapes, layout)
    sources = {
        "options": facts.hinted(hints),
        "keys and shapes": facts.shown(structure)
        | facts.labelled(structure.label_rows, hints),
    }
    for model in published(layout):
        if model.structure() == structure:
            sources[f"published: {model.name}"] = facts.as_published(model)
    if layout == "openai":
        sources["OpenAI's code"] = facts.OPENAI
    guessed = facts.usual(layout, structure, facts.merged(sources))
    sources[facts.GUESSED] = guessed
    config = facts.to_config(sources, structure)
    keymap: Callable = keymaps.ho
    if layout == "openai":
        legacy = facts.merged(sources)["attention_order"] == "legacy"
        keymap = partial(keymaps.openai, legacy_attention=legacy)
    return Identity(config, keymap, facts.resolve(sources))


@contextlib.contextmanager
def _naming(file: pathlib.Path) -> Iterator[None]:
    """What is wrong with a file begins with its name."""
    try:
        yield
    except (ValueError, ArithmeticError, MemoryError) as error:
        if isinstance(error, ValueError) and str(file) in str(error):
            raise
        raise ValueError(f"{file}: {reason(error, 4000)}") from cause(error)


def _from_json(path: pathlib.Path, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of a JSON file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not JSON, or not what `read` can read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}, which says what the weights beside it are"
        )
    values = read_object(path)
    try:
        return read(values)
    except (
        *(ValueError, TypeError, LookupError, AttributeError),
        *(ArithmeticError, RecursionError, MemoryError),
    ) as error:
        raise ValueError(f"{path}: {reason(error, 2000)}") from cause(error)


def _check_no_hints(hints: Hints, said: pathlib.Path) -> None:
    if hints != Hints():
        raise ValueError(
            f"{said} says all that there is to say of these weights: change it there, "
            "not by options"
        )

"""A model into files that others read: diffusers' folder, and our own archive.

    diffusers     model_index.json, unet/, scheduler/: `DDPMPipeline.from_pretrained`
    safetensors   config.json and model.safetensors: an archive, for any framework
    npz           config.json and model.npz: the same with NumPy alone

An archive's arrays are the averaged weights under their paths, "mid_block_0/conv2/
kernel". Each export is a folder that appears whole or not at all, with a model card.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from ddpm_jax import build
from ddpm_jax.config import Config, to_dict
from ddpm_jax.interop import diffusers_format, diffusers_scheduler, keymaps
from ddpm_jax.interop.card import Form, Known, model_card
from ddpm_jax.interop.diffusers_rules import PRIVATE
from ddpm_jax.interop.json_files import write_json
from ddpm_jax.interop.load import parameter_shapes
from ddpm_jax.interop.origin import Origin, write_origin


def save_archive(
    path: pathlib.Path | str,
    config: Config,
    params: Any,
    *,
    step: int = 0,
    npz: bool = False,
    known: Known | None = None,
) -> None:
    """Writes a model as a folder of config.json and one file of arrays.

    Args:
        path: the folder to make.
        config: the model's; where its images lie is left out.
        params: its weights, as a rule averaged.
        step: updates that it was trained.
        npz: write model.npz instead of model.safetensors.
        known: what the model card tells besides; None = nothing.

    Raises:
        ValueError: if the model has a network that Python gave: none could be made of
            the archive.
        FileExistsError: if the path is there already.
        OSError: if it cannot be written.
        ImportError: if safetensors is needed and not installed.
    """
    if config.network.own is not None:
        raise ValueError(
            "an archive is read as the U-Net; got a model whose network is "
            f"{config.network.own}: keep its run, or export the sampler as stablehlo"
        )
    arrays = {key: np.asarray(x) for key, x in flatten_dict(params, sep="/").items()}
    with new_folder(path) as folder:
        write_json(folder / "config.json", to_dict(_shared(config)))
        if npz:
            with_step: Any = {"step": np.asarray(step), **arrays}
            np.savez(folder / "model.npz", **with_step)
        else:
            metadata = {"format": "ddpm_jax", "step": str(step)}
            _write_safetensors(folder / "model.safetensors", arrays, metadata)
        form: Form = "npz" if npz else "safetensors"
        _write_card(folder, path, config, params, form, step, known)


def save_diffusers(
    path: pathlib.Path | str,
    config: Config,
    params: Any,
    *,
    step: int = 0,
    known: Known | None = None,
) -> None:
    """Writes a model as the folder that diffusers' pipelines are loaded from.

    unet/config.json keeps our config beside diffusers' own options, so that what those
    cannot say (a "no label" row, the data, how it was trained) comes back here.

    Args:
        path: the folder to make.
        config: the model's; where its images lie is left out.
        params: its weights, as a rule averaged.
        step: updates that it was trained.
        known: as for `save_archive`.

    Raises:
        ValueError: if diffusers has no such network or scheduler; the field is named.
        FileExistsError: if the path is there already.
        OSError: if it cannot be written.
        ImportError: if safetensors is not installed.
    """
    unet = diffusers_format.write_unet(config)
    scheduler = diffusers_scheduler.write_scheduler(config.diffusion)
    network = build.make_network(config)
    peers = keymaps.diffusers(network, parameter_shapes(network, config))
    tensors = {}
    for name, array in flatten_dict(params, sep="/").items():
        store = peers[name].store
        assert store is not None  # no tensor of diffusers' is of several parameters
        tensors[peers[name].key] = store(np.asarray(array))
    with new_folder(path) as folder:
        index = {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        }
        write_json(folder / "model_index.json", index)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        private = {PRIVATE: {"config": to_dict(_shared(config)), "step": step}}
        write_json(folder / "unet" / "config.json", unet | private)
        _write_safetensors(
            folder / "unet" / "diffusion_pytorch_model.safetensors",
            tensors,
            {"format": "pt"},
        )
        _write_card(folder, path, config, params, "diffusers", step, known)


@contextlib.contextmanager
def new_folder(path: pathlib.Path | str) -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes `path` when it is full; nothing if that fails.

    Raises:
        FileExistsError: if the path is there already.
    """
    path = pathlib.Path(path).absolute()
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.mkdir()
    try:
        yield draft
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_free(path: pathlib.Path) -> None:
    """Holds that `path` can be made: there is nothing yet, or an empty folder.

    Raises:
        FileExistsError: otherwise.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty:
        raise FileExistsError(f"{path} is there already; nothing is written over it")


def _shared(config: Config) -> Config:
    """What others may see of a config: not where images lie, which may name people."""
    path = "" if config.data.source == "folder" else None
    data = dataclasses.replace(config.data, path=path)
    return dataclasses.replace(config, data=data)


def _write_card(
    folder: pathlib.Path,
    path: pathlib.Path | str,
    config: Config,
    params: Any,
    form: Form,
    step: int,
    known: Known | None,
) -> None:
    """README.md of the folder that is going to be `path`, and origin.json."""
    known = (known or Known())._replace(name=pathlib.Path(path).absolute().name)
    text = model_card(config, params, form, step=step, known=known)
    (folder / "README.md").write_text(text, encoding="utf-8")
    beside = folder / "unet" if form == "diffusers" else folder
    write_origin(beside, Origin(known.trained, known.raw))


def _write_safetensors(
    path: pathlib.Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ImportError(
            f"writing {path.name} needs safetensors: pip install "
            "'ddpm_jax[safetensors]'"
        ) from error
    # It writes the memory of an array as it lies, also of one that lies transposed.
    whole = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata=metadata)
    except SafetensorError as error:  # a full disk, too
        raise OSError(f"{path.name} cannot be written: {error}") from error
    shutil.copymode(path.parent / "config.json", path)  # it lets only the owner read

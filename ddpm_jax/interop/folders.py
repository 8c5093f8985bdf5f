"""Folders of models: which file in them has the weights, and what lies beside it."""

import pathlib
import re

from ddpm_jax.interop.json_files import read_object
from ddpm_jax.text import printable, some

# The names that one model's weights have in a folder, the preferred ones first.
_NAMES = (
    "model.safetensors",
    "model.npz",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
# Others that are taken where a folder has one alone: many files, and variants, as of
# float16. Those before the others are preferred.
_PATTERNS = (
    (
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.*.safetensors",
        "diffusion_pytorch_model.safetensors.index.*.json",
    ),
    (
        *("diffusion_pytorch_model.bin.index.json", "pytorch_model.bin.index.json"),
        "diffusion_pytorch_model.*.bin",
        "diffusion_pytorch_model.bin.index.*.json",
    ),
)
_UNETS = ("unet_ema", "unet")  # in a pipeline's folder, or a training script's


def weights_file(path: pathlib.Path) -> pathlib.Path:
    """The file of weights that a path means.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are many and none is the usual one.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(_absent(path))
    folders = [path, *(path / name for name in _UNETS)]
    for folder in folders:
        for name in _NAMES:
            if (folder / name).is_file():
                return folder / name
        for patterns in _PATTERNS:
            found = {file for pattern in patterns for file in folder.glob(pattern)}
            # Parts are listed by an index: a-00001-of-00002.
            whole = sorted(file for file in found if "-of-" not in file.name)
            if len(whole) > 1:
                names = ", ".join(file.name for file in whole)
                raise ValueError(
                    f"{folder} holds weights in many forms: name one, {names}"
                )
            if whole:
                return whole[0]
    if newest := _newest_checkpoint(path):
        raise FileNotFoundError(
            f"{path} holds no weights itself, but a training script's checkpoints: "
            f"name one of them, as {newest}"
        )
    held = [file.relative_to(path) for at in folders for file in at.glob("*")]
    shown = ", ".join(map(str, sorted(held)[:10])) or "nothing"
    more = ", ..." if len(held) > 10 else ""
    raise FileNotFoundError(
        f"{path} holds no weights: none of {', '.join(_NAMES)}; it holds {shown}{more}"
    )


def _newest_checkpoint(path: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint-N of the largest N in a folder."""
    found = (
        (int(match[1]), place)
        for place in path.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d{1,15})", place.name))
        and place.is_dir()
    )
    return max(found, default=(0, None))[1]


def scheduler_file(folder: pathlib.Path) -> pathlib.Path | None:
    """The scheduler of the UNet2DModel in `folder`: beside it, or in its pipeline's."""
    places = [folder, folder / "scheduler"]
    if folder.name in _UNETS:
        places.append(folder.parent / "scheduler")
        if re.fullmatch(r"checkpoint-\d+", folder.parent.name):  # of a training script
            places.append(folder.parent.parent / "scheduler")
    files = (place / "scheduler_config.json" for place in places)
    return next((file for file in files if file.is_file()), None)


def check_pipeline(folder: pathlib.Path) -> None:
    """Holds that the pipeline of the UNet2DModel in `folder` has no other model.

    Raises:
        ValueError: if it has one: then the network does not see pixels, or not alone.
    """
    for place in [folder, *([folder.parent] if folder.name in _UNETS else [])]:
        index = place / "model_index.json"
        if not index.is_file():
            continue
        others = [
            printable(f"{name} ({part[1]})", 100)
            for name, part in read_object(index).items()
            if name not in ("unet", "scheduler")
            and isinstance(part, list)
            and len(part) == 2
            and part[1] is not None
        ]
        if others:
            raise ValueError(
                f"{index} must list a unet and a scheduler alone, the models of a "
                f"pipeline that reads and writes pixels; it lists {some(others)}"
            )


def _absent(path: pathlib.Path) -> str:
    """What to say of a path where there is nothing."""
    said = f"there is no file or folder {path}"
    # Not runs/typo: what has a folder here is a path here.
    like_a_name = len(path.parts) == 2 and not path.parent.exists()
    if like_a_name and not path.is_absolute():
        said += (
            f"; a model of huggingface.co is downloaded first: hf download {path} "
            "--local-dir DIR"
        )
    return said

"""What the keys and shapes of a state dict say of the network that they belong to."""

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, TypeVar

from ddpm_jax.networks import UNet

T = TypeVar("T")
Layout = Literal["diffusers", "openai", "ho", "ours"]
Shapes = Mapping[str, tuple[int, ...]]

# A key that every state dict of a layout has, and no other layout.
_LANDMARKS: dict[str, Layout] = {
    "time_embedding.linear_1.weight": "diffusers",
    "time_embed.0.weight": "openai",
    "temb.dense.0.weight": "ho",
    "time/dense1/kernel": "ours",
}
# What wraps a network puts its own names before the keys: DataParallel, torch.compile,
# averages of weights, latent diffusion's and Lightning's trainers.
_WRAPPED = re.compile(rf"((?:[^.]+\.)*)(?:{'|'.join(map(re.escape, _LANDMARKS))})")
# A key of other networks that are often met, as it ends.
_FOREIGN: dict[str, str] = {
    r"downs\.0\.0\.block1\.proj\.weight": "lucidrains' denoising_diffusion_pytorch",
    r"all_modules\.\d+\.\w+": "score_sde's DDPM, DDPM++ or NCSN++",
    r"mid\.0\.resblocks\.conv1\.weight": "rosinality's denoising-diffusion-pytorch",
    r"time_embedding\.timembedding\.1\.weight": "w86763777's pytorch-ddpm",
    r"blocks\.0\.adaLN_modulation\.1\.weight": "DiT or SiT, transformers",
}
# The other models of a latent diffusion model's file.
_LATENT = ("first_stage_model.", "cond_stage_model.")


class Structure(NamedTuple):
    """A U-Net as far as shapes tell it."""

    image_channels: int
    out_channels: int
    channels: int
    multipliers: tuple[float, ...]
    num_blocks: int
    attention_levels: tuple[int, ...]  # 0 is the finest
    label_rows: int | None  # of the label embedding; None = unconditional
    scale_shift: bool
    resblock_updown: bool


def prefixes_of(keys: Collection[str]) -> list[str]:
    """What stands before the keys of each network among these; none if none is known.

    "" is a network whose keys are whole.
    """
    matches = (_WRAPPED.fullmatch(key) for key in keys)
    return list(dict.fromkeys(match[1] for match in matches if match))


def unwrapped(
    tensors: Mapping[str, T], prefix: str, prefixes: Collection[str] = ()
) -> dict[str, T]:
    """The tensors whose keys begin with the prefix, without it.

    Args:
        tensors: by key.
        prefix: of the keys that are meant.
        prefixes: those of the other networks; what they have is left out.

    Raises:
        ValueError: if they are a part of a latent diffusion model.
    """
    for key in tensors:
        if key.startswith(_LATENT):
            raise ValueError(
                "these are the weights of a latent diffusion model, whose network does "
                f"not read pixels: {key} is among them"
            )
    longer = tuple(x for x in prefixes if x != prefix and x.startswith(prefix))
    return {
        key.removeprefix(prefix): x
        for key, x in tensors.items()
        if key.startswith(prefix) and not key.startswith(longer)
    }


def layout_of(keys: Collection[str]) -> Layout:
    """Whose state dict has these keys.

    Raises:
        ValueError: if it has the keys of no layout that is known.
    """
    for key, layout in _LANDMARKS.items():
        if key in keys:
            return layout
    for ending, name in _FOREIGN.items():
        if any(re.fullmatch(rf"(?:.*\.)?{ending}", key) for key in keys):
            raise ValueError(
                f"these are the weights of {name}: another network than the U-Nets of "
                "DDPM, Improved DDPM, guided diffusion and diffusers, which are read"
            )
    some = ", ".join(sorted(keys)[:3])
    raise ValueError(
        f"these are not the weights of a network that is known here ({len(keys)} "
        f"tensors: {some}, ...): none of the keys {', '.join(_LANDMARKS)} is among them"
    )


def structure_of(shapes: Shapes, layout: Layout) -> Structure:
    """The structure of a network in OpenAI's or Ho's layout.

    Raises:
        ValueError: if the keys are not those of such a U-Net.
    """
    return {"openai": _openai, "ho": _ho}[layout](shapes)


def structure_of_network(network: UNet, image_size: int, channels: int) -> Structure:
    """The structure that the weights of `network` for these images would show."""
    levels = range(len(network.multipliers))
    rows = None
    if network.num_classes is not None:
        rows = network.num_classes + network.null_label
    return Structure(
        image_channels=channels,
        out_channels=network.out_channels,
        channels=network.channels,
        multipliers=tuple(network.multipliers),
        num_blocks=network.num_blocks,
        attention_levels=tuple(
            i for i in levels if image_size >> i in network.attention_resolutions
        ),
        label_rows=rows,
        scale_shift=network.scale_shift,
        resblock_updown=network.resblock_updown,
    )


def _openai(shapes: Shapes) -> Structure:
    channels = _size(shapes, "time_embed.0.weight", axis=1, axes=2)
    if not any(key.startswith("output_blocks.") for key in shapes):
        raise ValueError(
            "there are no output_blocks: these are the weights of a classifier, as "
            "guided diffusion has them, not of a denoiser"
        )
    count = _count(shapes, r"input_blocks\.(\d+)\.")
    # Going up, what enlarges a level stands last in the level's last block.
    enlarged = r"output_blocks\.(\d+)\.[12]\."
    by_convolution = _places(shapes, enlarged + r"conv\.weight")
    by_block = _places(shapes, enlarged + r"in_layers\.0\.weight")
    levels = 1 + len(by_convolution | by_block)
    per_level, left = divmod(count, levels)
    if left or per_level < 2:
        raise ValueError(
            f"{count} input_blocks do not make {levels} levels of the same number of "
            "blocks"
        )
    first = [1 + level * per_level for level in range(levels)]
    widths = [_width(shapes, f"input_blocks.{i}.0.out_layers.3.weight") for i in first]
    embedded = _size(shapes, "input_blocks.1.0.emb_layers.1.weight", axis=0, axes=2)
    rows = None
    if "label_emb.weight" in shapes:
        rows = _size(shapes, "label_emb.weight", axis=0, axes=2)
    return Structure(
        image_channels=_size(shapes, "input_blocks.0.0.weight", axis=1, axes=4),
        out_channels=_width(shapes, "out.2.weight"),
        channels=channels,
        multipliers=ratios(widths, channels),
        num_blocks=per_level - 1,
        attention_levels=tuple(
            level
            for level, i in enumerate(first)
            if f"input_blocks.{i}.1.qkv.weight" in shapes
        ),
        label_rows=rows,
        scale_shift=embedded == 2 * widths[0],
        resblock_updown=bool(by_block),
    )


def _ho(shapes: Shapes) -> Structure:
    channels = _size(shapes, "temb.dense.0.weight", axis=1, axes=2)
    levels = range(_count(shapes, r"down\.(\d+)\."))
    widths = [_width(shapes, f"down.{i}.block.0.conv1.weight") for i in levels]
    return Structure(
        image_channels=_size(shapes, "conv_in.weight", axis=1, axes=4),
        out_channels=_width(shapes, "conv_out.weight"),
        channels=channels,
        multipliers=ratios(widths, channels),
        num_blocks=_count(shapes, r"down\.0\.block\.(\d+)\."),
        attention_levels=tuple(
            i for i in levels if f"down.{i}.attn.0.q.weight" in shapes
        ),
        label_rows=None,
        scale_shift=False,
        resblock_updown=False,
    )


def ratios(widths: Collection[int], channels: int) -> tuple[float, ...]:
    """The widths in units of the network's channels; whole numbers are integers."""
    return tuple(
        width // channels if width % channels == 0 else width / channels
        for width in widths
    )


def _size(shapes: Shapes, key: str, *, axis: int, axes: int) -> int:
    """The length of one axis of a tensor.

    Raises:
        ValueError: if it is not there, or has other axes or an empty one.
    """
    if key not in shapes:
        raise ValueError(f"the keys are not those of a whole U-Net: found no {key}")
    shape = shapes[key]
    if len(shape) != axes or 0 in shape:
        raise ValueError(
            f"the tensor {key} must have {axes} axes, and none of them empty; got the "
            f"shape {shape}"
        )
    return shape[axis]


def _width(shapes: Shapes, key: str) -> int:
    """The channels that a convolution's kernel writes."""
    return _size(shapes, key, axis=0, axes=4)


def _places(shapes: Shapes, pattern: str) -> set[int]:
    """The numbers that a pattern's group takes among the keys."""
    found = (re.match(pattern, key) for key in shapes)
    return {int(match[1]) for match in found if match}


def _count(shapes: Shapes, pattern: str) -> int:
    """How many parts a pattern's group numbers, from 0 on.

    Raises:
        ValueError: if some of them are not there.
    """
    places = _places(shapes, pattern)
    count = max(places, default=-1) + 1
    if count != len(places):
        part = pattern.partition(r"\.(")[0].replace("\\", "")
        raise ValueError(
            f"the keys are not those of a whole U-Net: {part} goes up to {count - 1}, "
            f"and {len(places)} of them are there"
        )
    return count

"""What the keys and shapes of a state dict say of the network that they belong to."""

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from ddpm_jax.networks import UNet

Layout = Literal["diffusers", "openai", "ho", "ours"]
Shapes = Mapping[str, tuple[int, ...]]

# A key that every state dict of a layout has, and no other layout.
_LANDMARKS: dict[str, Layout] = {
    "time_embedding.linear_1.weight": "diffusers",
    "time_embed.0.weight": "openai",
    "temb.dense.0.weight": "ho",
    "time/dense1/kernel": "ours",
}


class Structure(NamedTuple):
    """A U-Net as far as shapes tell it."""

    image_channels: int
    out_channels: int
    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int
    attention_levels: tuple[int, ...]  # 0 is the finest
    label_rows: int | None  # of the label embedding; None = unconditional
    scale_shift: bool
    resblock_updown: bool


def layout_of(keys: Collection[str]) -> Layout:
    """Whose state dict has these keys.

    Raises:
        ValueError: if it has the keys of no layout that is known.
    """
    for key, layout in _LANDMARKS.items():
        if key in keys:
            return layout
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
    read = {"openai": _openai, "ho": _ho}[layout]
    try:
        return read(shapes)
    except (KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"the keys are not those of a whole U-Net in the layout {layout!r}: "
            f"found no {error}"
        ) from error


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
        multipliers=tuple(int(m) for m in network.multipliers),
        num_blocks=network.num_blocks,
        attention_levels=tuple(
            i for i in levels if image_size >> i in network.attention_resolutions
        ),
        label_rows=rows,
        scale_shift=network.scale_shift,
        resblock_updown=network.resblock_updown,
    )


def _openai(shapes: Shapes) -> Structure:
    channels = shapes["time_embed.0.weight"][1]
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
    widths = [shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in first]
    return Structure(
        image_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0],
        channels=channels,
        multipliers=_multipliers(widths, channels),
        num_blocks=per_level - 1,
        attention_levels=tuple(
            level
            for level, i in enumerate(first)
            if f"input_blocks.{i}.1.qkv.weight" in shapes
        ),
        label_rows=shapes.get("label_emb.weight", (None,))[0],
        scale_shift=shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
        resblock_updown=bool(by_block),
    )


def _ho(shapes: Shapes) -> Structure:
    channels = shapes["temb.dense.0.weight"][1]
    levels = range(_count(shapes, r"down\.(\d+)\."))
    widths = [shapes[f"down.{i}.block.0.conv1.weight"][0] for i in levels]
    return Structure(
        image_channels=shapes["conv_in.weight"][1],
        out_channels=shapes["conv_out.weight"][0],
        channels=channels,
        multipliers=_multipliers(widths, channels),
        num_blocks=_count(shapes, r"down\.0\.block\.(\d+)\."),
        attention_levels=tuple(
            i for i in levels if f"down.{i}.attn.0.q.weight" in shapes
        ),
        label_rows=None,
        scale_shift=False,
        resblock_updown=False,
    )


def _places(shapes: Shapes, pattern: str) -> set[int]:
    """The numbers that a pattern's group takes among the keys."""
    found = (re.match(pattern, key) for key in shapes)
    return {int(match[1]) for match in found if match}


def _count(shapes: Shapes, pattern: str) -> int:
    return max(_places(shapes, pattern), default=-1) + 1


def _multipliers(widths: list[int], channels: int) -> tuple[int, ...]:
    """The widths in units of the network's channels.

    Raises:
        ValueError: if one is no whole multiple.
    """
    for width in widths:
        if width % channels:
            raise ValueError(
                "the width of every level must be a whole multiple of the network's "
                f"{channels} channels; got {', '.join(map(str, widths))}"
            )
    return tuple(width // channels for width in widths)

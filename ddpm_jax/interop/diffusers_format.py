"""diffusers' config.json of a `UNet2DModel`, read and written.

It says in JSON what a `Config` says of the network; `diffusers` fills in what a file
leaves out, and so does `read_unet` (`UNet2DModel.__init__` of version 0.42 has the
defaults). What one side can say and the other cannot is refused by name.
"""

from typing import Any

from ddpm_jax.config import Config, NetworkConfig, from_dict
from ddpm_jax.interop.diffusers_rules import (
    PRIVATE,
    Rule,
    can_say,
    hold,
    hold_same,
    one_of,
)
from ddpm_jax.interop.facts import Facts, shown
from ddpm_jax.interop.structure import Structure, ratios
from ddpm_jax.text import some

_UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# What diffusers' EMAModel writes beside them.
_OF_AVERAGE = (
    *("decay", "min_decay", "inv_gamma", "power", "optimization_step"),
    *("update_after_step", "use_ema_warmup"),
)
# The values that stand for this U-Net; any other is another network.
_UNET_FIXED: dict[str, tuple] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
_KINDS = ("down_block_types", "up_block_types")
_COUNTS = ("in_channels", "out_channels", "layers_per_block", "num_class_embeds")
# The kinds of blocks: (has attention, changes the resolution by a residual block; None
# where that is for downsample_type or upsample_type to say).
_DOWN: dict[str, tuple[bool, bool | None]] = {
    "DownBlock2D": (False, False),
    "ResnetDownsampleBlock2D": (False, True),
    "AttnDownBlock2D": (True, None),
}
_UP: dict[str, tuple[bool, bool | None]] = {
    "UpBlock2D": (False, False),
    "ResnetUpsampleBlock2D": (False, True),
    "AttnUpBlock2D": (True, None),
}


def read_unet(values: dict[str, Any]) -> tuple[Facts, Structure]:
    """A `UNet2DModel`'s config.json as facts, and the structure that it describes.

    Raises:
        ValueError: if it is another class, or has options that a `NetworkConfig` cannot
            say; every one of them is named.
    """
    values = _checked_unet(values)
    widths = values["block_out_channels"]
    channels = widths[0]
    scale_shift = values["resnet_time_scale_shift"] == "scale_shift"
    levels, updown = _read_blocks(values)
    structure = Structure(
        image_channels=values["in_channels"],
        out_channels=values["out_channels"],
        channels=channels,
        multipliers=ratios(widths, channels),
        num_blocks=values["layers_per_block"],
        attention_levels=levels,
        label_rows=values["num_class_embeds"],
        scale_shift=scale_shift,
        resblock_updown=updown,
    )
    hold(_of_groups_and_heads(values, levels))
    facts = {
        **shown(structure),
        "network.dropout": values["dropout"],
        "network.num_groups": values["norm_num_groups"],
        "network.norm_eps": values["norm_eps"],
        "network.cos_first": values["flip_sin_to_cos"],
        "network.freq_shift": values["freq_shift"],
        "network.downsample_padding": (values["downsample_padding"], 1),
        "network.num_heads": 1,
        "network.head_channels": values["attention_head_dim"],
        # diffusers leaves it out unless it is given groups of its own.
        "network.mid_attention_norm": not scale_shift
        or values["attn_norm_num_groups"] is not None,
    }
    size = values["sample_size"]
    if size is not None:
        facts["data.image_size"] = size[0] if isinstance(size, list) else size
    return facts, structure


def write_unet(config: Config) -> dict[str, Any]:
    """The config.json of the `UNet2DModel` that is the config's network.

    Raises:
        ValueError: if diffusers has no such network; the field is named.
    """
    network, data = config.network, config.data
    levels = [
        data.image_size >> i in network.attention_resolutions
        for i in range(len(network.multipliers))
    ]
    can_say("network.time_scale", network.time_scale, network.time_scale == 1, "1")
    padding = network.downsample_padding
    padded = padding in ((0, 1), (1, 1))
    can_say("network.downsample_padding", padding, padded, "(0, 1) or (1, 1)")
    # Its time embedding has the width of the finest level.
    first = network.multipliers[0]
    can_say("network.multipliers[0]", first, first == 1, "1")
    norm = network.mid_attention_norm
    said = norm or network.scale_shift  # without scale_shift it always has one
    can_say("network.mid_attention_norm", norm, said, "True without scale_shift")
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    if not network.resblock_updown:
        plain = ("DownBlock2D", "UpBlock2D")
    change = "resnet" if network.resblock_updown else "conv"
    learned = config.diffusion.variance.startswith("learned")
    rows = None
    if data.num_classes is not None:
        rows = data.num_classes + network.null_label
    return {
        "_class_name": "UNet2DModel",
        "sample_size": data.image_size,
        "in_channels": data.channels,
        "out_channels": data.channels * (2 if learned else 1),
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": network.freq_shift,
        "flip_sin_to_cos": network.cos_first,
        "down_block_types": ["AttnDownBlock2D" if x else plain[0] for x in levels],
        "up_block_types": ["AttnUpBlock2D" if x else plain[1] for x in levels[::-1]],
        "block_out_channels": [
            round(network.channels * m) for m in network.multipliers
        ],
        "layers_per_block": network.num_blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": padding[0],
        "downsample_type": change,
        "upsample_type": change,
        "dropout": network.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_channels(network, levels),
        "norm_num_groups": network.num_groups,
        "attn_norm_num_groups": network.num_groups if norm else None,
        "norm_eps": network.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if network.scale_shift else "default",
        "num_class_embeds": rows,
    }


def read_private(values: dict[str, Any]) -> tuple[Config, int]:
    """(config, step) that `save_diffusers` left in unet/config.json."""
    return from_dict(values[PRIVATE]["config"]), int(values[PRIVATE]["step"])


def check_same(config: Config, values: dict[str, Any]) -> None:
    """Holds a `UNet2DModel`'s config.json against our own config, which lies in it.

    Raises:
        ValueError: naming every fact that differs, or as `read_unet`.
    """
    ours, theirs = (
        {**facts, **structure._asdict()}
        for facts, structure in map(read_unet, (write_unet(config), values))
    )
    hold_same(ours, theirs)


def _checked_unet(values: dict[str, Any]) -> dict[str, Any]:
    """The options with diffusers' defaults, none of them of another kind of network."""
    name = values.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise ValueError(f"config.json must be of a UNet2DModel; got {name}")
    values = {
        key: x
        for key, x in values.items()
        if not key.startswith("_") and key not in _OF_AVERAGE
    }
    unknown = [key for key in values if key not in _UNET_DEFAULTS]
    if unknown:
        raise ValueError(f"config.json has options that are not known: {some(unknown)}")
    values = _UNET_DEFAULTS | values
    widths = values["block_out_channels"]
    numbers = isinstance(widths, list) and widths and all(map(_is_count, widths))
    dim, size = values["time_embedding_dim"], values["sample_size"]
    time = 4 * widths[0] if numbers else None
    sized = size is None or _is_count(size)
    if isinstance(size, list):
        sized = len(set(size)) == 1 and _is_count(size[0])
    hold(
        [
            *(one_of(key, values[key], x) for key, x in _UNET_FIXED.items()),
            Rule("block_out_channels", widths, bool(numbers), "whole numbers"),
            *(_of_kinds(key, values[key]) for key in _KINDS),
            *(_of_count(key, values[key]) for key in _COUNTS),
            Rule("time_embedding_dim", dim, dim in (None, time), f"{time}"),
            Rule("sample_size", size, sized, "a whole number, or two for a square"),
        ]
    )
    return values


def _of_groups_and_heads(values: dict[str, Any], levels: tuple[int, ...]) -> list[Rule]:
    """The rules of what must divide widths; `levels` are those with attention."""
    widths = values["block_out_channels"]
    groups, head = values["norm_num_groups"], values["attention_head_dim"]
    attended = sorted({widths[i] for i in (*levels, len(widths) - 1)})
    fit = _is_count(groups) and not any(width % groups for width in widths)
    heads = head is None or (_is_count(head) and not any(x % head for x in attended))
    middle = values["attn_norm_num_groups"]
    shown = ", ".join(map(str, attended))
    divides = f"None or a number of channels that divides {shown}"
    return [
        Rule("norm_num_groups", groups, fit, "a number that divides every width"),
        Rule("attention_head_dim", head, heads, divides),
        one_of("attn_norm_num_groups", middle, (None, groups)),
    ]


def _read_blocks(values: dict[str, Any]) -> tuple[tuple[int, ...], bool]:
    """(levels with attention, residual blocks change the resolution)."""
    # The first versions of diffusers had a prefix.
    down, up = (
        [str(kind).removeprefix("UNetRes") for kind in values[f"{side}_block_types"]]
        for side in ("down", "up")
    )
    up = up[::-1]
    count = len(values["block_out_channels"])
    hold(
        Rule(
            key,
            kinds,
            set(kinds) <= set(known) and len(kinds) == count,
            f"{count} of {', '.join(known)}",
        )
        for kinds, known, key in (
            (down, _DOWN, "down_block_types"),
            (up, _UP, "up_block_types"),
        )
    )
    attends = [_DOWN[kind][0] for kind in down]
    mirrored = attends == [_UP[kind][0] for kind in up]
    default_down = values["downsample_type"] == "resnet"
    default_up = values["upsample_type"] == "resnet"
    # How each change of resolution is made; the coarsest level has none.
    made_down = {_or(_DOWN[kind][1], default_down) for kind in down[:-1]}
    made_up = {_or(_UP[kind][1], default_up) for kind in up[1:]}
    one_way = len(made_down | made_up) <= 1
    hold(
        [
            Rule("up_block_types", up[::-1], mirrored, "down_block_types mirrored"),
            Rule("down_block_types", down, one_way, "all of one way, resnet or conv"),
        ]
    )
    levels = tuple(i for i, attention in enumerate(attends) if attention)
    return levels, made_down == {True}


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _of_kinds(option: str, value: Any) -> Rule:
    words = isinstance(value, list) and all(isinstance(kind, str) for kind in value)
    return Rule(option, value, words, "a list of kinds of blocks")


def _of_count(option: str, value: Any) -> Rule:
    empty = value is None and _UNET_DEFAULTS[option] is None
    return Rule(option, value, empty or _is_count(value), "a whole number from 1")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _head_channels(network: NetworkConfig, levels: list[bool]) -> int | None:
    """attention_head_dim, which is one number for the whole network."""
    if network.head_channels is not None or network.num_heads == 1:
        return network.head_channels
    attended = zip(network.multipliers, [*levels[:-1], True], strict=True)
    widths = {round(network.channels * m) for m, attention in attended if attention}
    found = f"{network.num_heads} heads at widths {sorted(widths)}"
    can_say("network.num_heads", found, len(widths) == 1, "of one width everywhere")
    return widths.pop() // network.num_heads

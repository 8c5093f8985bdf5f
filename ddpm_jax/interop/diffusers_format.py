"""diffusers' config.json and scheduler_config.json, read and written.

Both say in JSON what a `Config` says; `diffusers` fills in what a file leaves out, and
so does `read_unet` (`UNet2DModel.__init__` of version 0.42 has the defaults). What one
side can say and the other cannot is refused by name.
"""

import dataclasses
from typing import Any

from ddpm_jax import build
from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    NetworkConfig,
    ScheduleConfig,
    from_dict,
)
from ddpm_jax.interop.facts import Facts, shown
from ddpm_jax.interop.structure import Structure

# Where our own config lies in unet/config.json; diffusers leaves names alone that begin
# with an underscore.
PRIVATE = "_ddpm_jax"

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
_PREDICT = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_BETAS = {
    "linear": "linear",
    "scaled_linear": "quadratic",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
_VARIANCE = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # the same number by another way
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}


def read_unet(values: dict[str, Any]) -> tuple[Facts, Structure]:
    """A `UNet2DModel`'s config.json as facts, and the structure that it describes.

    Raises:
        ValueError: if it is another class, or has an option that a `NetworkConfig`
            cannot say; the option is named.
    """
    values = _checked_unet(values)
    widths = values["block_out_channels"]
    channels = widths[0]
    whole = all(width % channels == 0 for width in widths)
    _check("block_out_channels", widths, whole, f"whole multiples of {channels}")
    dim = values["time_embedding_dim"]
    _check("time_embedding_dim", dim, dim in (None, 4 * channels), f"{4 * channels}")
    groups, eps = values["norm_num_groups"], values["norm_eps"]
    scale_shift = values["resnet_time_scale_shift"] == "scale_shift"
    # Without it diffusers leaves the norm out of the middle's attention.
    middle = values["attn_norm_num_groups"]
    has_norm = middle == groups or (middle is None and not scale_shift)
    _check("attn_norm_num_groups", middle, has_norm, f"{groups}, as norm_num_groups")
    levels, updown = _read_blocks(values)
    structure = Structure(
        image_channels=values["in_channels"],
        out_channels=values["out_channels"],
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        num_blocks=values["layers_per_block"],
        attention_levels=levels,
        label_rows=values["num_class_embeds"],
        scale_shift=scale_shift,
        resblock_updown=updown,
    )
    facts = {
        **shown(structure),
        "network.dropout": values["dropout"],
        "network.num_groups": groups,
        "network.norm_eps": eps,
        "network.cos_first": values["flip_sin_to_cos"],
        "network.freq_shift": values["freq_shift"],
        "network.downsample_padding": (values["downsample_padding"], 1),
        "network.num_heads": 1,
        "network.head_channels": values["attention_head_dim"],
    }
    size = values["sample_size"]
    if isinstance(size, list):
        square = len(set(size)) == 1
        _check("sample_size", size, square, "a square")
        size = size[0]
    if size is not None:
        facts["data.image_size"] = size
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
    _say("network.time_scale", network.time_scale, network.time_scale == 1, "1")
    padding = network.downsample_padding
    padded = padding in ((0, 1), (1, 1))
    _say("network.downsample_padding", padding, padded, "(0, 1) or (1, 1)")
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
        "block_out_channels": [network.channels * m for m in network.multipliers],
        "layers_per_block": network.num_blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": padding[0],
        "downsample_type": change,
        "upsample_type": change,
        "dropout": network.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_channels(network, levels),
        "norm_num_groups": network.num_groups,
        "attn_norm_num_groups": network.num_groups,
        "norm_eps": network.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if network.scale_shift else "default",
        "num_class_embeds": rows,
    }


def read_scheduler(values: dict[str, Any]) -> Facts:
    """What a scheduler_config.json says of the diffusion; of any of its schedulers.

    What belongs to a way of sampling (spacing of the steps, order of a solver) is left.

    Raises:
        ValueError: if it says what a `DiffusionConfig` cannot say; the option is named.
    """
    get = values.get
    for key, allowed in {
        "trained_betas": (None,),
        "thresholding": (None, False),
        "clip_sample_range": (None, 1),
    }.items():
        _check(key, get(key), get(key) in allowed, " or ".join(map(repr, allowed)))
    betas = get("beta_schedule", "linear")
    _check("beta_schedule", betas, betas in _BETAS, f"one of {', '.join(_BETAS)}")
    predict = get("prediction_type", "epsilon")
    _check("prediction_type", predict, predict in _PREDICT, " or ".join(_PREDICT))
    variance = get("variance_type") or "fixed_small"
    _check("variance_type", variance, variance in _VARIANCE, " or ".join(_VARIANCE))
    zero_snr = get("rescale_betas_zero_snr", False)
    facts = {
        "diffusion.schedule.kind": _BETAS[betas],
        "diffusion.schedule.num_steps": get("num_train_timesteps", 1000),
        "diffusion.schedule.zero_terminal_snr": zero_snr,
        "diffusion.predict": _PREDICT[predict],
        "diffusion.variance": _VARIANCE[variance],
        "diffusion.clip": get("clip_sample", True),
    }
    if betas != "squaredcos_cap_v2":
        facts["diffusion.schedule.start"] = get("beta_start", 1e-4)
        facts["diffusion.schedule.end"] = get("beta_end", 0.02)
    return facts


def write_scheduler(diffusion: DiffusionConfig) -> dict[str, Any]:
    """The scheduler_config.json of the `DDPMScheduler` that samples as the config says.

    Betas that diffusers has no name for are written out one by one.

    Raises:
        ValueError: if diffusers cannot sample so; the field is named.
    """
    variance = diffusion.variance
    # diffusers takes a learned output for the variance; here it is its logarithm.
    named = variance in _VARIANCE.values()
    _say("diffusion.variance", variance, named, "fixed or learned_range")
    schedule = diffusion.schedule
    predict = {ours: theirs for theirs, ours in _PREDICT.items()}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.num_steps,
        **_write_betas(schedule),
        "variance_type": variance,
        "clip_sample": diffusion.clip,
        "clip_sample_range": 1.0,
        "prediction_type": predict[diffusion.predict],
        "timestep_spacing": "trailing" if schedule.zero_terminal_snr else "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }


def read_private(values: dict[str, Any]) -> tuple[Config, int]:
    """(config, step) that `save_diffusers` left in unet/config.json."""
    return from_dict(values[PRIVATE]["config"]), int(values[PRIVATE]["step"])


def check_same(
    config: Config, unet: dict[str, Any], scheduler: dict[str, Any] | None
) -> None:
    """Holds a config that lies beside diffusers' options against those.

    Raises:
        ValueError: naming an option that says otherwise.
    """
    pairs = [(write_unet(config), unet)]
    if scheduler is not None:
        pairs.append((write_scheduler(config.diffusion), scheduler))
    for ours, theirs in pairs:
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"diffusers' option {key} must be {value!r}, as {PRIVATE} says; "
                    f"got {theirs.get(key)!r} (remove {PRIVATE} to follow diffusers')"
                )


def _checked_unet(values: dict[str, Any]) -> dict[str, Any]:
    """The options with diffusers' defaults, none of them of another kind of network."""
    name = values.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise ValueError(f"config.json must be of a UNet2DModel; got {name}")
    values = {key: x for key, x in values.items() if not key.startswith("_")}
    unknown = [key for key in values if key not in _UNET_DEFAULTS]
    if unknown:
        raise ValueError(f"config.json has an option that is not known: {unknown[0]}")
    values = _UNET_DEFAULTS | values
    for key, allowed in _UNET_FIXED.items():
        _check(
            key, values[key], values[key] in allowed, " or ".join(map(repr, allowed))
        )
    return values


def _write_betas(schedule: ScheduleConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _BETAS.items()}
    cosine = schedule.kind == "cosine"
    named = schedule.kind in names and schedule.offset is schedule.max_beta is None
    if not named:
        # diffusers shifts them to zero terminal SNR itself.
        plain = dataclasses.replace(schedule, zero_terminal_snr=False)
        return {"trained_betas": build.make_betas(plain).tolist()}
    ends = {"beta_start": schedule.start or 1e-4, "beta_end": schedule.end or 0.02}
    return {"beta_schedule": names[schedule.kind], **({} if cosine else ends)}


def _read_blocks(values: dict[str, Any]) -> tuple[tuple[int, ...], bool]:
    """(levels with attention, residual blocks change the resolution)."""
    down, up = values["down_block_types"], values["up_block_types"][::-1]
    for kinds, known, key in (
        (down, _DOWN, "down_block_types"),
        (up, _UP, "up_block_types"),
    ):
        fits = set(kinds) <= set(known)
        _check(key, kinds, fits, f"made of {', '.join(known)}")
        same = len(kinds) == len(values["block_out_channels"])
        _check(key, kinds, same, "as many as block_out_channels")
    attends = [_DOWN[kind][0] for kind in down]
    mirrored = attends == [_UP[kind][0] for kind in up]
    _check("up_block_types", up[::-1], mirrored, "down_block_types mirrored")
    types = {
        key: values[key] == "resnet" for key in ("downsample_type", "upsample_type")
    }
    ways = set()  # how each change of resolution is made; the coarsest level has none
    for i in range(len(down) - 1):
        for way, default in (
            (_DOWN[down[i]][1], types["downsample_type"]),
            (_UP[up[i + 1]][1], types["upsample_type"]),
        ):
            ways.add(default if way is None else way)
    one_way = len(ways) <= 1
    _check("down_block_types", down, one_way, "all with, or all without resnet up/down")
    levels = tuple(i for i, attention in enumerate(attends) if attention)
    return levels, ways == {True}


def _head_channels(network: NetworkConfig, levels: list[bool]) -> int | None:
    """attention_head_dim, which is one number for the whole network."""
    if network.head_channels is not None or network.num_heads == 1:
        return network.head_channels
    attended = zip(network.multipliers, [*levels[:-1], True], strict=True)
    widths = {network.channels * m for m, attention in attended if attention}
    found = f"{network.num_heads} heads at widths {sorted(widths)}"
    _say("network.num_heads", found, len(widths) == 1, "of one width everywhere")
    return widths.pop() // network.num_heads


def _check(key: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(
            f"diffusers' option {key} must be {rule} for a network of ddpm_jax; got "
            f"{value!r}"
        )


def _say(field: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(
            f"diffusers has no such model: {field} must be {rule}; got {value}"
        )

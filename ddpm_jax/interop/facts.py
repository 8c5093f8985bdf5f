"""What is known of a model, piece by piece and with its source, until it is a `Config`.

A field of the config comes from the first source that knows it: the caller's `Hints`,
the files, the published model whose weights have these shapes, and what the layout's
own code does where it is told nothing.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ddpm_jax.config import Config, NetworkConfig, from_dict
from ddpm_jax.interop.published import Published
from ddpm_jax.interop.structure import Structure
from ddpm_jax.networks import UNet

# Fields of a Config by "section.field", and the attention_order of OpenAI's weights.
Facts = dict[str, Any]
Sources = dict[str, Facts]  # the first that knows a field is believed
GUESSED = "guessed"  # the source of what nothing says
Variance = Literal["fixed_small", "fixed_large", "learned", "learned_range"]


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What weights do not say of their model; None = as published, or as is usual."""

    image_size: int | None = None  # height and width in pixels
    num_heads: int | None = None  # attention heads
    head_channels: int | None = None  # channels per head, in place of num_heads
    attention_order: Literal["legacy", "new"] | None = None  # OpenAI's layout only
    num_groups: int | None = None  # of every group norm
    norm_eps: float | None = None  # added to their variances
    time_scale: float | None = None  # the network is told t times this
    null_label: bool | None = None  # the last row of the labels is "no label"
    # the kind of betas
    schedule: Literal["linear", "cosine", "quadratic", "sigmoid"] | None = None
    num_steps: int | None = None  # T
    start: float | None = None  # first beta
    end: float | None = None  # last beta
    predict: Literal["eps", "x0", "v"] | None = None  # what the network's output is
    # of the reverse step
    variance: Variance | None = None
    clip: bool | None = None  # limit each predicted x0 while sampling
    step: int | None = None  # updates that it was trained


_PLACES = {
    "image_size": "data",
    **dict.fromkeys(("num_groups", "norm_eps", "time_scale"), "network"),
    **dict.fromkeys(("num_steps", "start", "end"), "diffusion.schedule"),
    **dict.fromkeys(("predict", "variance"), "diffusion"),
}
# Facts that hold for one value of another fact alone.
_DETAILS = {
    "diffusion.schedule.kind": tuple(
        f"diffusion.schedule.{name}" for name in ("start", "end", "betas")
    ),
    "diffusion.clip.kind": tuple(
        f"diffusion.clip.{name}" for name in ("bound", "percentile", "max_value")
    ),
    "diffusion.schedule.num_steps": ("network.time_scale",),
}


def hinted(hints: Hints) -> Facts:
    """The facts that the caller gives.

    Raises:
        ValueError: if a hint is none that a network could have.
    """
    heads, channels, eps = hints.num_heads, hints.head_channels, hints.norm_eps
    if heads is not None and channels is not None:
        raise ValueError(
            "num_heads and head_channels say the same in two ways: give one; got "
            f"{heads} and {channels}"
        )
    if heads is not None and heads < 1:
        raise ValueError(f"num_heads must be at least 1; got {heads}")
    if eps is not None and eps <= 0:
        raise ValueError(f"norm_eps must be positive; got {eps}")
    facts: Facts = {
        f"{section}.{name}": getattr(hints, name)
        for name, section in _PLACES.items()
        if getattr(hints, name) is not None
    }
    if hints.schedule is not None:
        facts["diffusion.schedule.kind"] = hints.schedule
    if hints.clip is not None:
        facts["diffusion.clip.kind"] = "static" if hints.clip else "none"
    if heads is not None or channels is not None:
        facts["network.num_heads"] = 1 if heads is None else heads
        facts["network.head_channels"] = channels
    if hints.attention_order is not None:
        facts["attention_order"] = hints.attention_order
    return facts


def overriding(facts: Facts) -> list[str]:
    """The hints that say otherwise than these facts."""
    names = {"diffusion.schedule.kind": "schedule", "diffusion.clip.kind": "clip"}
    hints = (names.get(key, key.rpartition(".")[2]) for key in facts)
    known = {field.name for field in dataclasses.fields(Hints)}
    return sorted(known.intersection(hints))


def labelled(rows: int | None, hints: Hints) -> Facts:
    """The facts that the number of rows of the labels' embedding gives.

    Raises:
        ValueError: if a hint is about labels and there are none.
    """
    if rows is None:
        if hints.null_label:
            raise ValueError("null_label is about labels, and the weights have none")
        return {"data.num_classes": None}
    null = bool(hints.null_label)
    facts: Facts = {"data.num_classes": rows - null, "network.null_label": null}
    if null:  # it has learned to do without a label; how often it had to is not said
        facts["diffusion.label_dropout"] = 0.1
    return facts


def shown(structure: Structure) -> Facts:
    """The facts that keys and shapes give, but for labels and attention."""
    return {
        "data.channels": structure.image_channels,
        "network.channels": structure.channels,
        "network.multipliers": structure.multipliers,
        "network.num_blocks": structure.num_blocks,
        "network.scale_shift": structure.scale_shift,
        "network.resblock_updown": structure.resblock_updown,
    }


def as_published(model: Published) -> Facts:
    """The facts of a published model."""
    schedule = {f"diffusion.schedule.{key}": x for key, x in model.schedule.items()}
    facts = {
        "data.image_size": model.image_size,
        **{f"data.{key}": value for key, value in model.data.items()},
        **_of_network(model.network),
        **schedule,
        "diffusion.predict": "eps",
        "diffusion.variance": model.variance,
    }
    if model.layout == "openai":
        facts["attention_order"] = "new" if model.new_attention_order else "legacy"
    return facts


OPENAI: Facts = {  # what OpenAI's code does with any weights
    "network.norm_eps": 1e-5,
    "network.cos_first": True,
    "network.freq_shift": 0,
    "network.downsample_padding": (1, 1),
    "network.init": "improved",
}


def usual(layout: str, structure: Structure, known: Facts) -> Facts:
    """What the layout's own code does with such weights if it is told no more.

    Args:
        layout: "openai" or "ho".
        structure: of the weights.
        known: the facts of every other source.
    """
    learned = structure.out_channels == 2 * structure.image_channels
    num_steps = known.get("diffusion.schedule.num_steps", 1000)
    facts: Facts = {
        "diffusion.schedule.kind": "linear",
        "diffusion.schedule.num_steps": num_steps,
        "diffusion.predict": "eps",
        "diffusion.variance": "learned_range" if learned else "fixed_large",
    }
    if layout == "ho":
        return facts
    kind = known.get("diffusion.schedule.kind", "linear")
    if kind == "linear" and num_steps != 1000:
        # Improved DDPM's linear betas are those of 1000 steps, rescaled.
        facts["diffusion.schedule.start"] = 0.1 / num_steps
        facts["diffusion.schedule.end"] = min(20 / num_steps, 0.999)
    return facts | {
        "network.time_scale": 1000 / num_steps,
        "network.num_heads": 4,
        "attention_order": "legacy",
    }


def resolve(sources: Sources) -> Sources:
    """The sources, each with the fields alone that none before it knows."""
    resolved: Sources = {}
    known: Facts = {}
    for source, facts in sources.items():
        # Whose word on the one is not taken, is not asked about the other.
        moot = {
            detail
            for key, details in _DETAILS.items()
            if known.get(key, facts.get(key)) != facts.get(key)
            for detail in details
        }
        new = {key: facts[key] for key in facts if key not in known.keys() | moot}
        known |= new
        if new:
            resolved[source] = new
    return resolved


def merged(sources: Sources) -> Facts:
    """All that the sources know together."""
    return {key: x for facts in resolve(sources).values() for key, x in facts.items()}


def to_config(sources: Sources, structure: Structure) -> Config:
    """The config of what the sources know of a network of this structure.

    Raises:
        ValueError: if a necessary fact is missing, or the facts are those of no model.
    """
    known = merged(sources)
    channels, out_channels = structure.image_channels, structure.out_channels
    if channels == 6 and out_channels in (3, 6):
        raise ValueError(
            "a network that reads 6 channels for images of 3 is of super-resolution, "
            "and sees the small image beside x_t; that is not known here"
        )
    if "data.image_size" not in known:
        raise ValueError(
            "nothing says how large the images are, in pixels: give image_size (on the "
            "command line --image-size)"
        )
    size = known["data.image_size"]
    learned = known["diffusion.variance"].startswith("learned")
    halves = 2 if learned else 1
    if out_channels != halves * channels:
        raise ValueError(
            f"a network for images of {channels} channels with the variance "
            f"{known['diffusion.variance']} must have {halves * channels} output "
            f"channels; got {out_channels}"
        )
    fields = {
        "data.source": "folder",
        "network.attention_resolutions": tuple(
            size >> level for level in structure.attention_levels
        ),
        "diffusion.loss": "hybrid" if learned else "simple",
        **known,
    }
    if fields["data.source"] == "folder":
        fields["data.path"] = ""  # nothing says where, and None would be refused
    values: dict[str, Any] = {}
    fields.pop("attention_order", None)  # of the weights, not of the model
    for key, value in fields.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return from_dict(values)


def _of_network(network: UNet) -> Facts:
    """The fields of a UNet that a NetworkConfig has too."""
    names = {field.name for field in dataclasses.fields(NetworkConfig)}
    names -= {"init", "dtype", "remat", "attention_resolutions", "own", "convolutions"}
    facts = {f"network.{name}": getattr(network, name) for name in names}
    improved = network.norm_eps == 1e-5
    return facts | {"network.init": "improved" if improved else "ddpm"}

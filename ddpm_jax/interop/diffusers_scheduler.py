"""diffusers' scheduler_config.json, read and written."""

import dataclasses
import math
from typing import Any

import numpy as np

from ddpm_jax import build
from ddpm_jax.config import ClipConfig, DiffusionConfig, ScheduleConfig
from ddpm_jax.interop.diffusers_rules import Rule, can_say, hold, hold_same, one_of
from ddpm_jax.interop.facts import Facts
from ddpm_jax.interop.structure import Structure

# The schedulers of variance-preserving diffusion. Others (flow matching, consistency
# models, variance-exploding ones) have the same options and mean something else.
_CLIPPING = (  # these clip x0 where nothing is said
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler"),
    *("DDIMParallelScheduler", "DDIMInverseScheduler"),
)
_LATENT_BETAS = (  # these start from Stable Diffusion's betas where nothing is said
    *("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"),
    "KDPM2AncestralDiscreteScheduler",
)
_KNOWN = (
    *_CLIPPING,
    *_LATENT_BETAS,
    *("PNDMScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DPMSolverMultistepInverseScheduler", "LMSDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
)
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


def read_scheduler(values: dict[str, Any]) -> Facts:
    """What a scheduler_config.json says of the diffusion; of any of its schedulers.

    What belongs to a way of sampling (spacing of the steps, order of a solver) is left.

    Raises:
        ValueError: if it says what a `DiffusionConfig` cannot say; every such option is
            named.
    """
    get = values.get
    kind = get("_class_name", "DDPMScheduler")
    predict = get("prediction_type", "epsilon")
    variance = get("variance_type")
    rule = "a scheduler of variance-preserving diffusion"
    hold(
        [
            Rule("_class_name", kind, kind in _KNOWN, rule),
            *_rules_of_betas(values),
            one_of("prediction_type", predict, _PREDICT),
            one_of("variance_type", variance, (None, *_VARIANCE)),
            *_rules_of_clipping(values),
            one_of("use_flow_sigmas", get("use_flow_sigmas"), (None, False)),
        ]
    )
    facts = {
        **_read_betas(values),
        "diffusion.predict": _PREDICT[predict],
        **_read_clipping(values),
        # Its DDIM keeps the network's eps, unless a step is told otherwise.
        "diffusion.rederive": False,
    }
    if variance is not None:
        facts["diffusion.variance"] = _VARIANCE[variance]
    return facts


def usual(structure: Structure) -> Facts:
    """What diffusers' `DDPMScheduler` does with such a network if told no more."""
    learned = structure.out_channels == 2 * structure.image_channels
    variance = "learned_range" if learned else "fixed_small"
    return {**read_scheduler({}), "diffusion.variance": variance}


def write_scheduler(diffusion: DiffusionConfig) -> dict[str, Any]:
    """The scheduler_config.json of the `DDPMScheduler` that samples as the config says.

    Betas that diffusers has no name for are written out one by one.

    Raises:
        ValueError: if diffusers cannot sample so; the field is named.
    """
    variance = diffusion.variance
    # diffusers takes a learned output for the variance; here it is its logarithm.
    named = variance in _VARIANCE.values()
    can_say("diffusion.variance", variance, named, "fixed or learned_range")
    schedule = diffusion.schedule
    predict = {ours: theirs for theirs, ours in _PREDICT.items()}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.num_steps,
        **_write_betas(schedule),
        "variance_type": variance,
        **_write_clipping(diffusion.clip),
        "prediction_type": predict[diffusion.predict],
        "timestep_spacing": "trailing" if schedule.zero_terminal_snr else "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }


def check_same(diffusion: DiffusionConfig, values: dict[str, Any]) -> None:
    """Holds a scheduler_config.json, of any of the schedulers, against our config.

    What it leaves to its own way of sampling may differ.

    Raises:
        ValueError: naming every fact that differs, or as `read_scheduler`.
    """
    ours, theirs = map(read_scheduler, (write_scheduler(diffusion), values))
    if values.keys().isdisjoint(("clip_sample", "thresholding")):
        theirs = {key: x for key, x in theirs.items() if ".clip." not in key}
    hold_same(ours, theirs)


def _rules_of_betas(values: dict[str, Any]) -> list[Rule]:
    betas, count = values.get("trained_betas"), values.get("num_train_timesteps", 1000)
    if betas is None:
        return [one_of("beta_schedule", values.get("beta_schedule", "linear"), _BETAS)]
    numbers = isinstance(betas, list) and bool(betas) and all(map(_is_number, betas))
    inside = numbers and all(0 < x < 1 for x in betas[:-1]) and 0 < betas[-1] <= 1
    rule = (
        f"num_train_timesteps = {count} numbers in (0, 1), of which the last may be 1"
    )
    return [Rule("trained_betas", betas, inside and len(betas) == count, rule)]


def _read_betas(values: dict[str, Any]) -> Facts:
    get = values.get
    fields = {
        "num_steps": get("num_train_timesteps", 1000),
        "zero_terminal_snr": get("rescale_betas_zero_snr", False),
    }
    if values.get("trained_betas") is not None:  # then they alone are read
        betas = tuple(map(float, values["trained_betas"]))
        fields |= {"kind": "explicit", "betas": betas}
    else:
        kind = get("beta_schedule", "linear")
        fields["kind"] = _BETAS[kind]
        if kind != "squaredcos_cap_v2":
            latent = get("_class_name") in _LATENT_BETAS
            start, end = (0.00085, 0.012) if latent else (1e-4, 0.02)
            fields |= {"start": get("beta_start", start), "end": get("beta_end", end)}
    return {f"diffusion.schedule.{key}": x for key, x in fields.items()}


def _rules_of_clipping(values: dict[str, Any]) -> list[Rule]:
    """The rules of what limits x0; a number that is not read may be any."""
    known = _clipping(values)
    bound, ratio = known.get("bound", 1.0), known.get("percentile", 1.0)
    largest = known.get("max_value", 1.0)
    positive = _is_number(bound) and 0 < bound < math.inf
    inside = _is_number(ratio) and 0 < ratio <= 1
    scales = _is_number(largest) and 1 <= largest < math.inf
    switches = ("clip_sample", "thresholding")
    return [
        *(one_of(key, values.get(key), (None, False, True)) for key in switches),
        Rule("clip_sample_range", bound, positive, "a positive number"),
        Rule("dynamic_thresholding_ratio", ratio, inside, "a number in (0, 1]"),
        Rule("sample_max_value", largest, scales, "a number of at least 1"),
    ]


def _clipping(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `ClipConfig`; thresholding goes before clip_sample."""
    if values.get("thresholding"):
        return {
            "kind": "dynamic",
            "percentile": values.get("dynamic_thresholding_ratio", 0.995),
            "max_value": values.get("sample_max_value", 1.0),
        }
    clips = values.get("_class_name", "DDPMScheduler") in _CLIPPING
    if not values.get("clip_sample", clips):
        return {"kind": "none"}
    bound = values.get("clip_sample_range")
    return {"kind": "static", "bound": 1.0 if bound is None else bound}


def _read_clipping(values: dict[str, Any]) -> Facts:
    return {f"diffusion.clip.{key}": x for key, x in _clipping(values).items()}


def _write_clipping(clip: ClipConfig) -> dict[str, Any]:
    if clip.kind != "dynamic":
        return {"clip_sample": clip.kind == "static", "clip_sample_range": clip.bound}
    largest = float(np.finfo(np.float32).max)  # which no quantile exceeds
    return {
        "thresholding": True,
        "dynamic_thresholding_ratio": clip.percentile,
        "sample_max_value": largest if clip.max_value is None else clip.max_value,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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

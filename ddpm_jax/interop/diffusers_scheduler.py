"""diffusers' scheduler_config.json, read and written."""

import dataclasses
from typing import Any

from ddpm_jax import build
from ddpm_jax.config import DiffusionConfig, ScheduleConfig
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
    betas = get("beta_schedule", "linear")
    predict = get("prediction_type", "epsilon")
    variance = get("variance_type")
    rule = "a scheduler of variance-preserving diffusion"
    hold(
        [
            Rule("_class_name", kind, kind in _KNOWN, rule),
            one_of("beta_schedule", betas, _BETAS),
            one_of("prediction_type", predict, _PREDICT),
            one_of("variance_type", variance, (None, *_VARIANCE)),
            one_of("trained_betas", get("trained_betas"), (None,)),
            one_of("thresholding", get("thresholding"), (None, False)),
            one_of("use_flow_sigmas", get("use_flow_sigmas"), (None, False)),
            one_of("clip_sample_range", get("clip_sample_range"), (None, 1)),
        ]
    )
    facts = {
        "diffusion.schedule.kind": _BETAS[betas],
        "diffusion.schedule.num_steps": get("num_train_timesteps", 1000),
        "diffusion.schedule.zero_terminal_snr": get("rescale_betas_zero_snr", False),
        "diffusion.predict": _PREDICT[predict],
        "diffusion.clip": get("clip_sample", kind in _CLIPPING),
    }
    if variance is not None:
        facts["diffusion.variance"] = _VARIANCE[variance]
    if betas != "squaredcos_cap_v2":
        start, end = (0.00085, 0.012) if kind in _LATENT_BETAS else (1e-4, 0.02)
        facts["diffusion.schedule.start"] = get("beta_start", start)
        facts["diffusion.schedule.end"] = get("beta_end", end)
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
        "clip_sample": diffusion.clip,
        "clip_sample_range": 1.0,
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
    written = write_scheduler(diffusion)
    betas = "trained_betas"
    ours, theirs = (
        {**read_scheduler({**said, betas: None}), betas: said.get(betas)}
        for said in (written, values)
    )
    if "clip_sample" not in values:
        del theirs["diffusion.clip"]
    hold_same(ours, theirs)


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

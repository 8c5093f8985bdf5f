"""What a scheduler_config.json says of a model, and what it does not."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax import build
from ddpm_jax.config import (
    ClipConfig,
    DiffusionConfig,
    ScheduleConfig,
    from_dict,
    to_dict,
)
from ddpm_jax.interop.diffusers_scheduler import (
    check_same,
    read_scheduler,
    write_scheduler,
)
from ddpm_jax.interop.facts import GUESSED, Hints
from ddpm_jax.interop.read import read_model


@pytest.mark.parametrize(
    ("kind", "clip"),
    [
        ("DDPMScheduler", True),
        ("DDIMInverseScheduler", True),
        ("PNDMScheduler", False),
        ("DPMSolverMultistepScheduler", False),
        ("EulerDiscreteScheduler", False),
        ("HeunDiscreteScheduler", False),
    ],
)
def test_schedulers_of_the_same_diffusion_are_read(kind, clip):
    facts = read_scheduler({"_class_name": kind})
    assert facts["diffusion.clip.kind"] == ("static" if clip else "none")
    assert facts["diffusion.schedule.kind"] == "linear"
    start = 0.00085 if kind == "HeunDiscreteScheduler" else 1e-4
    assert facts["diffusion.schedule.start"] == start
    said = read_scheduler({"_class_name": kind, "clip_sample": not clip})
    assert said["diffusion.clip.kind"] == ("none" if clip else "static")


@pytest.mark.parametrize(
    "kind",
    [
        *("FlowMatchEulerDiscreteScheduler", "CMStochasticIterativeScheduler"),
        *("KarrasVeScheduler", "ScoreSdeVeScheduler", "EDMEulerScheduler"),
    ],
)
def test_a_scheduler_of_another_diffusion_is_named(kind):
    with pytest.raises(ValueError, match=f"_class_name must be .*got '{kind}'"):
        read_scheduler({"_class_name": kind, "num_train_timesteps": 1000})


def test_every_option_is_named_and_a_thousand_betas_are_not_printed():
    values = {"trained_betas": [0.01] * 999, "prediction_type": "flow"}
    values |= {"thresholding": True, "sample_max_value": 0.5}
    with pytest.raises(ValueError, match=r"trained_betas must .*; prediction_ty") as e:
        read_scheduler(values)
    assert "sample_max_value" in str(e.value)
    assert len(str(e.value)) < 400


CLIPPING = {
    "kind": "diffusion.clip.kind",
    "bound": "diffusion.clip.bound",
    "percentile": "diffusion.clip.percentile",
    "max_value": "diffusion.clip.max_value",
}


@pytest.mark.parametrize(
    ("values", "clip"),
    [
        ({"clip_sample": False, "clip_sample_range": 3.0}, {"kind": "none"}),
        ({"clip_sample_range": 3.0}, {"kind": "static", "bound": 3.0}),
        ({"clip_sample_range": None}, {"kind": "static", "bound": 1.0}),
        (
            {"thresholding": True, "clip_sample": False, "clip_sample_range": -1},
            {"kind": "dynamic", "percentile": 0.995, "max_value": 1.0},
        ),
        (
            {"thresholding": True, "dynamic_thresholding_ratio": 0.9}
            | {"sample_max_value": 1.5, "_class_name": "DPMSolverMultistepScheduler"},
            {"kind": "dynamic", "percentile": 0.9, "max_value": 1.5},
        ),
        (
            {"thresholding": False, "sample_max_value": 0.1},
            {"kind": "static", "bound": 1.0},
        ),
    ],
)
def test_every_clipping_of_diffusers_is_read(values, clip):
    facts = read_scheduler(values)
    found = {name: facts.get(key) for name, key in CLIPPING.items() if key in facts}
    assert found == clip
    assert ClipConfig(**found).kind == clip["kind"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("clip_sample_range", x) for x in (0, -1.0, float("nan"), "1", True)),
        *(("dynamic_thresholding_ratio", x) for x in (0, 1.1, float("nan"), None)),
        *(("sample_max_value", x) for x in (0.5, float("inf"), None)),
    ],
)
def test_a_clipping_that_is_none_is_named(option, value):
    thresholding = option != "clip_sample_range"
    with pytest.raises(ValueError, match=f"{option} must be a .*number"):
        read_scheduler({option: value, "thresholding": thresholding})


@pytest.mark.parametrize(
    "betas",
    [
        *([0.1, 0.2], [0.1, 0.2, 0.0], [0.1, 1, 0.3], [0.1, 0.2, 1.5], [0.1, -1, 0.2]),
        *([0.1, "0.2", 0.3], [True, 0.1, 0.2], [], "betas", 0.1, {"0": 0.1}),
        [0.1, float("nan"), 0.2],
    ],
)
def test_betas_that_are_none_are_named(betas):
    rule = "trained_betas must be num_train_timesteps = 3 numbers"
    with pytest.raises(ValueError, match=rule):
        read_scheduler({"trained_betas": betas, "num_train_timesteps": 3})


def test_explicit_betas_are_the_models(diffusers_folder):
    """And what names betas otherwise is not read, as diffusers does not read it."""
    betas = np.geomspace(1e-3, 0.3, 60).tolist()
    said = {"trained_betas": betas, "num_train_timesteps": 60, "beta_start": 7}
    said["beta_schedule"] = "laplace"
    (diffusers_folder / "scheduler_config.json").write_text(json.dumps(said))
    config = read_model(diffusers_folder).config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    found = build.make_schedule(config.diffusion.schedule)
    expected = np.cumprod(1 - np.array(betas))
    np.testing.assert_allclose(found.alphas_cumprod, expected, rtol=1e-6)
    # An option names other betas: then it is they.
    other = Hints(schedule="cosine")
    schedule = read_model(diffusers_folder, other).config.diffusion.schedule
    assert schedule == ScheduleConfig(kind="cosine", num_steps=60)


@pytest.mark.parametrize(
    "clip",
    [
        *(ClipConfig(), ClipConfig(kind="none"), ClipConfig(bound=2.0)),
        ClipConfig(kind="dynamic", percentile=0.9, max_value=1.5),
    ],
)
def test_clipping_is_written_and_read(clip):
    written = write_scheduler(dataclasses.replace(CONFIG, clip=clip))
    facts = read_scheduler(json.loads(json.dumps(written)))
    found = {name: facts[key] for name, key in CLIPPING.items() if key in facts}
    assert ClipConfig(**found) == clip


CONFIG = DiffusionConfig(schedule=ScheduleConfig(kind="cosine", num_steps=50))
UNNAMED = DiffusionConfig(schedule=ScheduleConfig(kind="warmup", fraction=0.5))


@pytest.mark.parametrize("config", [CONFIG, UNNAMED])
@pytest.mark.parametrize(
    "options",
    [
        {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, "steps_offset": 1},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    ],
)
def test_another_scheduler_of_the_same_model_is_the_same(config, options):
    """As `save_pretrained` writes it: its own options, and those that it ignores."""
    check_same(config, write_scheduler(config) | options)
    bare = {
        key: value
        for key, value in write_scheduler(config).items()
        if key not in ("variance_type", "clip_sample", "clip_sample_range")
    }
    check_same(config, bare | options)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("num_train_timesteps", 60, "schedule.num_steps must be 50; got 60"),
        ("prediction_type", "sample", "diffusion.predict"),
        ("clip_sample", False, "diffusion.clip.kind must be 'static'; got 'none'"),
        ("clip_sample_range", 2.0, "diffusion.clip.bound must be 1.0; got 2.0"),
        ("thresholding", True, "diffusion.clip.kind must be 'static'; got 'dynamic'"),
        ("variance_type", "fixed_small", "diffusion.variance"),
        ("trained_betas", [0.1, 0.2], "trained_betas must be num_train_timesteps = 50"),
        ("trained_betas", [0.1] * 50, "kind must be 'cosine'; got 'explicit'"),
        ("_class_name", "FlowMatchHeunDiscreteScheduler", "_class_name"),
    ],
)
def test_a_scheduler_of_another_model_is_named(option, value, named):
    with pytest.raises(ValueError, match=named):
        check_same(CONFIG, write_scheduler(CONFIG) | {option: value})


def test_a_learned_variance_is_seen_where_nothing_says_so(diffusers_folder):
    said = diffusers_folder / "config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"out_channels": 6}))
    file = diffusers_folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for key in ("conv_out.weight", "conv_out.bias"):
        tensors[key] = tensors[key].repeat(2, axis=0)
    save_file(tensors, file)
    scheduler = diffusers_folder / "scheduler_config.json"
    for values in (None, {"_class_name": "DDIMScheduler"}, {"variance_type": None}):
        if values is not None:
            scheduler.write_text(json.dumps(values))
        weights = read_model(diffusers_folder)
        assert weights.config.diffusion.variance == "learned_range"
        assert weights.sources[GUESSED]["diffusion.variance"] == "learned_range"
    scheduler.write_text(json.dumps({"variance_type": "fixed_small"}))
    with pytest.raises(ValueError, match="3 output channels"):
        read_model(diffusers_folder)


def test_the_variance_is_guessed_only_where_it_is_not_said():
    assert "diffusion.variance" not in read_scheduler({})
    fixed = dataclasses.replace(CONFIG, variance="fixed_large")
    facts = read_scheduler(write_scheduler(fixed))
    assert facts["diffusion.variance"] == "fixed_large"

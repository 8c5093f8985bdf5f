"""What a scheduler_config.json says of a model, and what it does not."""

import dataclasses
import json

import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.config import DiffusionConfig, ScheduleConfig
from ddpm_jax.interop.diffusers_scheduler import (
    check_same,
    read_scheduler,
    write_scheduler,
)
from ddpm_jax.interop.facts import GUESSED
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
    assert facts["diffusion.clip"] == clip
    assert facts["diffusion.schedule.kind"] == "linear"
    start = 0.00085 if kind == "HeunDiscreteScheduler" else 1e-4
    assert facts["diffusion.schedule.start"] == start
    said = read_scheduler({"_class_name": kind, "clip_sample": not clip})
    assert said["diffusion.clip"] != clip


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
    values = {"trained_betas": [0.01] * 1000, "thresholding": True}
    with pytest.raises(ValueError, match=r"trained_betas must .*; thresholding") as e:
        read_scheduler({**values, "prediction_type": "flow"})
    assert "prediction_type" in str(e.value)
    assert len(str(e.value)) < 400


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
        ("clip_sample", False, "diffusion.clip must be True; got False"),
        ("variance_type", "fixed_small", "diffusion.variance"),
        ("trained_betas", [0.1, 0.2], "trained_betas must be None"),
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

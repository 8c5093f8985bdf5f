"""What the pages name is there: options, arguments, functions; none is left out."""

import dataclasses
import importlib
import inspect
import json
import pathlib
import re
import typing

import pytest

import ddpm_jax
from ddpm_jax import build
from ddpm_jax.commands import sample
from ddpm_jax.config import UNetConfig
from ddpm_jax.drawing import Draw
from ddpm_jax.evaluation import __main__ as evaluation
from ddpm_jax.experiments import shipped
from ddpm_jax.interop import __main__ as interop
from ddpm_jax.interop.facts import Hints
from ddpm_jax.processes import Distributed

RESULTS = pathlib.Path(__file__).parent.parent / "benchmarks" / "results"
DOCS = pathlib.Path(__file__).parent.parent / "docs"
OPTIONS = {"from_diffusers.md": 90, "from_improved_diffusion.md": 55}  # at least
PAGES = [
    *OPTIONS,
    *("comparison.md", "recipes.md"),
    *sorted(f"concepts/{path.name}" for path in (DOCS / "concepts").glob("*.md")),
]
# What `spacing` and `sampler` may be, which are plain text to a command line.
NAMES = {
    "sampler": [*build.SAMPLERS],
    "spacing": [*build.SPACINGS, *build.SOLVER_SPACINGS],
    "config": [*shipped()],
}
# Every option of diffusers 0.42's schedulers and network, and of its training script.
SCHEDULERS = """
num_train_timesteps beta_start beta_end beta_schedule trained_betas variance_type
clip_sample prediction_type thresholding dynamic_thresholding_ratio clip_sample_range
sample_max_value timestep_spacing steps_offset rescale_betas_zero_snr set_alpha_to_one
solver_order algorithm_type solver_type lower_order_final euler_at_final
use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas
flow_shift final_sigmas_type lambda_min_clipped use_dynamic_shifting time_shift_type
predict_x0 disable_corrector solver_p sigma_min sigma_max shift_terminal eta
use_clipped_model_output generator variance_noise num_inference_steps timesteps
"""
UNET = """
sample_size in_channels out_channels center_input_sample time_embedding_type
time_embedding_dim freq_shift flip_sin_to_cos down_block_types mid_block_type
up_block_types block_out_channels layers_per_block mid_block_scale_factor
downsample_padding downsample_type upsample_type dropout act_fn attention_head_dim
norm_num_groups attn_norm_num_groups norm_eps resnet_time_scale_shift add_attention
class_embed_type num_class_embeds num_train_timesteps
"""
TRAIN_UNCONDITIONAL = """
dataset_name dataset_config_name model_config_name_or_path train_data_dir output_dir
overwrite_output_dir cache_dir resolution center_crop random_flip train_batch_size
eval_batch_size dataloader_num_workers num_epochs save_images_epochs save_model_epochs
gradient_accumulation_steps learning_rate lr_scheduler lr_warmup_steps adam_beta1
adam_beta2 adam_weight_decay adam_epsilon use_ema ema_inv_gamma ema_power ema_max_decay
push_to_hub hub_token hub_model_id hub_private_repo logger logging_dir local_rank
mixed_precision prediction_type ddpm_num_steps ddpm_num_inference_steps
ddpm_beta_schedule checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention preserve_input_precision
"""
# And every flag of OpenAI's script_util, image_train.py and image_sample.py.
OPENAI = """
image_size num_channels num_res_blocks num_heads num_heads_upsample num_head_channels
attention_resolutions channel_mult dropout class_cond use_checkpoint
use_scale_shift_norm resblock_updown use_fp16 use_new_attention_order learn_sigma
sigma_small diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart
rescale_timesteps rescale_learned_sigmas large_size small_size data_dir
schedule_sampler lr weight_decay lr_anneal_steps batch_size microbatch ema_rate
log_interval save_interval resume_checkpoint fp16_scale_growth clip_denoised
num_samples use_ddim model_path classifier_scale classifier_path
"""


def spans(page, *, ours):
    """What stands in backticks: of theirs, the first cells of tables, or of ours."""
    text = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(), flags=re.M | re.S)
    found = []
    for line in text.replace("\\|", "").splitlines():
        first, rest = "", line
        if line.startswith("|") and page.startswith(("from_", "comparison")):
            _, first, *cells = line.split("|")
            # In a comparison the last column is ours.
            rest = cells[-2] if page.startswith("comparison") else "|".join(cells)
        found += re.findall(r"`([^`]+)`", rest if ours else first)
    return found


def leaves(cls, prefix="", flat=()):
    """Option -> type of the fields of a dataclass; those of `flat` have no section."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            inner = prefix if name in flat else f"{prefix}{name}."
            found |= leaves(hint, inner, flat)
        else:
            found[f"{prefix}{name}".replace("_", "-")] = hint
    return found


def arguments(function, *others):
    """Option -> type of the arguments of a function, and of the dataclasses."""
    found = typing.get_type_hints(function)
    for cls in others:
        found |= leaves(cls)
    return {name.replace("_", "-"): hint for name, hint in found.items()}


TRAIN = leaves(UNetConfig)
PROGRAMS = {
    "ddpm-train": TRAIN
    | {"config": str, "workdir": str, "profile": int}
    | leaves(Distributed, "distributed."),
    "ddpm-sample": leaves(sample.Options, flat=("draw",)) | leaves(Draw),
    "ddpm-evaluate": leaves(evaluation.Options, flat=("draw",)) | leaves(Draw),
    "ddpm-import": arguments(interop.import_weights, Hints),
    "ddpm-export": arguments(interop.export_weights),
}


def check_option(option, values, options):
    """Holds that there is such an option, and that it may have the value."""
    name = option.removeprefix("--")
    switch = re.sub(r"(^|\.)no-", r"\1", name)
    if switch != name:
        assert options.get(switch) is bool, option
        return
    assert name in options, f"{option} is no option"
    hint = options[name]
    allowed = NAMES.get(name)
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
    for value in values if allowed else ():
        assert value in allowed, f"{option} {value}: {allowed}"


def find(path):
    """What `module.name` or `model.method` stands for."""
    head, *rest = path.split(".")
    if head == "model":
        found = ddpm_jax.Model
    elif head == "ddpm_jax":
        found = ddpm_jax
    else:
        found = importlib.import_module(f"ddpm_jax.diffusion.{head}")
    for name in rest:
        found = getattr(found, name)
    return found


MODULES = sorted(path.stem for path in DOCS.parent.glob("ddpm_jax/diffusion/[a-z]*.py"))
CALL = re.compile(
    rf"(?:{'|'.join([*MODULES, 'samplers', 'model', 'ddpm_jax'])})\.[\w.]+"
)


def check_span(span):
    """True if it names something of ours, which must be there."""
    words = span.split()
    if words[0] in PROGRAMS:
        options = [word for word in words if word.startswith("--")]
        for option in options:
            values = words[words.index(option) + 1 :]
            values = values[: 1 if option in ("--spacing", "--sampler") else 0]
            check_option(option, values, PROGRAMS[words[0]])
        return True
    if words[0].startswith("--"):
        for i, word in enumerate(words):
            if word.startswith("--"):
                check_option(word, words[i + 1 : i + 2], TRAIN)
        return True
    if not CALL.match(span):
        return False
    function = find(CALL.match(span).group().rstrip("."))
    if "(" in span and not inspect.isclass(function):
        known = inspect.signature(function).parameters
        for name in re.findall(r"(\w+)=", span):
            assert name in known, f"{span}: {name} is no argument"
    return True


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    named = [span for span in spans(page, ours=True) if check_span(span)]
    assert len(named) >= OPTIONS.get(page, 1)


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("from_diffusers.md", SCHEDULERS + UNET + TRAIN_UNCONDITIONAL),
        ("from_improved_diffusion.md", OPENAI),
    ],
)
def test_no_option_of_theirs_is_left_out(page, options):
    said = " ".join(spans(page, ours=False))
    words = set(re.findall(r"\w+", said))
    assert [name for name in options.split() if name not in words] == []


@pytest.mark.parametrize("page", OPTIONS)
def test_every_option_has_ours_or_a_reason(page):
    lines = [x for x in (DOCS / page).read_text().splitlines() if x[:1] == "|"]
    for line in lines:
        ours = line.strip("|").split("|", 1)[1]
        if set(ours) <= set(" -|") or ours.strip() == "here":
            continue
        said = any(check_span(span) for span in re.findall(r"`([^`]+)`", ours))
        reason = re.search(r"\bnone\b.*\b(because|reason)\b|\balways\b", ours)
        assert said or reason, line


@pytest.mark.parametrize("page", ["from_diffusers.md"])
def test_what_the_importer_knows_of_a_network_is_in_the_table(page):
    from ddpm_jax.interop.diffusers_format import _UNET_DEFAULTS

    assert set(_UNET_DEFAULTS) == set(UNET.split())


def test_no_result_is_better_than_what_was_measured():
    text = (DOCS / "results.md").read_text()
    sampler = json.loads((RESULTS / "sampler_digits_cpu_float32.json").read_text())
    found = [
        x["overhead_percent"]["median"]
        for x in sampler["float32"].values()
        if "overhead_percent" in x
    ]
    assert max(found) <= float(re.search(r"at most ([\d.]+) % more", text).group(1))
    overhead = json.loads((RESULTS / "overhead_digits_cpu.json").read_text())
    said = re.search(r"checkpoints, of the run's time \| at most ([\d.]+) %", text)
    assert overhead["save_percent_of_run_at_most"] <= float(said.group(1))

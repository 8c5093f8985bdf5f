"""The model card of an export: README.md as the Hugging Face hub reads it.

It holds what is known and nothing else: the config; how it was trained, if it was
trained here; and the evaluations of these very weights.
"""

import html
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ddpm_jax.config import Config
from ddpm_jax.text import printable

Form = Literal["safetensors", "npz", "diffusers"]
TASK = "unconditional-image-generation"  # the hub's word; labels are no text
UNKNOWN = "unknown"  # the hub's word for a licence that is not told


class Known(NamedTuple):
    """What is known of weights besides their config."""

    trained: bool = False  # whether data, optim and train of the config tell how
    evaluations: Sequence[Mapping[str, Any]] = ()  # records of `ddpm_jax.evaluation`
    license: str = UNKNOWN  # of the weights, as the hub names it
    name: str = "model"
    raw: bool = False  # as the last update left them, not their average


def evaluations_of(workdir: pathlib.Path, digest: str) -> list[dict[str, Any]]:
    """The records in a workdir that are of samples of one model.

    Args:
        digest: as `drawing.digest` has it.
    """
    found = []
    for path in sorted((workdir / "evaluation").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            if record["samples"]["model"] == digest and dict(record["metrics"]):
                found.append(record)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # of another kind, or half a file
    return found


def model_card(
    config: Config, params: Any, form: Form, *, step: int, known: Known
) -> str:
    """The text of README.md.

    Args:
        config: the model's.
        params: the model's.
        form: of the export that the card lies in.
        step: updates that it was trained; 0 = not known.
        known: the rest.
    """
    if config.data.source == "folder":
        shared = [_without_path(record) for record in known.evaluations]
        known = known._replace(evaluations=shared)
    name = _words(known.name)
    count = sum(np.size(x) for x in jax.tree.leaves(params))
    parts = [
        "\n".join(["---", *_front_matter(config, form, known), "---"]),
        f"# {name}",
        f"A denoising diffusion model of {_images(config)}: a U-Net of {count:,} "
        f"parameters that predicts {config.diffusion.predict} over "
        f"{config.diffusion.schedule.num_steps:,} steps. {_labels(config)} It was "
        "written by ddpm_jax.",
        "## Use it",
        *_usage(config, form),
        "## The model",
        _table(_model_rows(config, step, known.raw)),
        "## Training",
        _table(_training_rows(config, known.raw))
        if known.trained
        else "How these weights were trained is not recorded here.",
        "## Evaluation",
        *_evaluation(known.evaluations),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Config, form: Form, known: Known) -> Iterator[str]:
    """YAML, every value of it as JSON has it."""
    library = "diffusers" if form == "diffusers" else "ddpm_jax"
    tags = ["ddpm", "diffusion", "jax", "flax", "ddpm_jax"]
    fields: dict[str, Any] = {
        "library_name": library,
        "license": known.license,
        "pipeline_tag": TASK,
        "tags": tags,
    }
    if known.trained and config.data.source == "tfds":
        fields["datasets"] = [re.split("[/:]", config.data.name)[0]]
    results = [_result(record) for record in known.evaluations]
    names = [x["type"] for result in results for x in result["metrics"]]
    if names:
        fields["metrics"] = list(dict.fromkeys(names))
        fields["model-index"] = [{"name": known.name, "results": results}]
    for key, value in fields.items():
        yield f"{key}: {_yaml(value)}"


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation, as the hub's model-index has it."""
    against = _against(record)
    metrics = [
        {"type": key, "name": str(row.get("shown", key)), "value": row["mean"]}
        for key, row in _rows(record)
    ]
    return {
        "task": {"type": TASK},
        "dataset": {"name": against, "type": re.split("[/:]", against)[0]},
        "metrics": metrics,
    }


def _without_path(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record, in which a set of the run's folder has no name: it is a path."""
    reference = dict(record.get("reference", {}))
    if "set" in reference:
        reference["set"] = "a folder of images"
    return {**record, "reference": reference}


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, row in record["metrics"].items():
        mean = row.get("mean") if isinstance(row, dict) else None
        if isinstance(mean, (int, float)) and abs(mean) <= sys.float_info.max:
            yield key, row


def _against(record: Mapping[str, Any]) -> str:
    """The name of the images that samples were measured against."""
    reference = record.get("reference", {})
    if "set" in reference:
        return str(reference["set"])
    places = (reference.get(key) for key in ("file", "folder"))
    return next((pathlib.Path(x).name for x in places if x), "images not named")


def _yaml(value: Any) -> str:
    """JSON, which is YAML; a number of YAML 1.1 has a point."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}: {_yaml(x)}" for key, x in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        digits, e, power = f"{value:.6g}".partition("e")
        return f"{digits}{'' if '.' in digits else '.0'}{e}{power}"
    if isinstance(value, str):
        return json.dumps(printable(value), ensure_ascii=False)
    return json.dumps(value)


def _words(value: Any) -> str:
    """Anything as plain words of Markdown, on one line of a table."""
    line = printable(str(value)).encode(errors="backslashreplace").decode()
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", html.escape(line, quote=False))


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {_words(key)} | {_words(value)} |" for key, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _images(config: Config) -> str:
    data = config.data
    kind = "grey" if data.channels == 1 else "RGB"
    return f"{data.image_size} x {data.image_size} {kind} images"


def _labels(config: Config) -> str:
    data, free = config.data, config.network.null_label
    if data.num_classes is None:
        return "It takes no labels."
    also = ", and draws without one" if free and config.diffusion.label_dropout else ""
    return f"It takes a label 0..{data.num_classes - 1}{also}."


def _usage(config: Config, form: Form) -> Iterator[str]:
    """Programs that run as they stand in the export's folder."""
    label = "" if config.data.num_classes is None else ", label=0"
    shown = min(50, config.diffusion.schedule.num_steps)
    draw = f'model.sample(0, 16, sampler="ddim", steps={shown}{label})'
    yield "With ddpm_jax, in the folder of this file:"
    yield _python(
        "import ddpm_jax",
        "",
        'model = ddpm_jax.load(".")',
        f"images = {draw}  # in [-1, 1]",
        'model.show(images).save("samples.png")',
    )
    if form != "diffusers":
        return
    yield "With diffusers:"
    if config.data.num_classes is None:
        yield _python(
            "from diffusers import DDPMPipeline",
            "",
            'pipeline = DDPMPipeline.from_pretrained(".")',
            f"images = pipeline(batch_size=4, num_inference_steps={shown}).images",
            'images[0].save("sample.png")',
        )
        return
    size, channels = config.data.image_size, config.data.channels
    yield _python(
        "import torch",
        "from diffusers import DDPMScheduler, UNet2DModel",
        "",
        'unet = UNet2DModel.from_pretrained(".", subfolder="unet")',
        'scheduler = DDPMScheduler.from_pretrained(".", subfolder="scheduler")',
        f"scheduler.set_timesteps({shown})",
        f"labels = torch.arange(4) % {config.data.num_classes}",
        f"x = torch.randn(4, {channels}, {size}, {size})",
        "for t in scheduler.timesteps:",
        "    with torch.no_grad():",
        "        output = unet(x, t, labels).sample",
        "    x = scheduler.step(output, t, x).prev_sample  # in [-1, 1] at the end",
    )


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _model_rows(config: Config, step: int, raw: bool) -> Iterator[tuple[str, Any]]:
    network, diffusion = config.network, config.diffusion
    schedule = diffusion.schedule
    yield "channels", network.channels
    yield "multipliers", ", ".join(map(str, network.multipliers))
    yield "residual blocks at each size", network.num_blocks
    at = ", ".join(map(str, network.attention_resolutions)) or "none"
    yield "attention at resolutions", at
    yield "predicts", diffusion.predict
    yield "variance", diffusion.variance
    yield "schedule", f"{schedule.kind}, {schedule.num_steps:,} steps"
    if step:
        yield "updates trained", f"{step:,}"
    if raw:
        yield "weights", "raw: as the last update left them, not their average"
    names = config.data.class_names
    if names is not None:
        yield "labels", ", ".join(f"{i}: {name}" for i, name in enumerate(names))


def _training_rows(config: Config, raw: bool) -> Iterator[tuple[str, Any]]:
    data, optim, train = config.data, config.optim, config.train
    # A folder's path is of no use elsewhere, and may name people.
    sets = {
        "digits": "the 8 x 8 digits that ddpm_jax has (UCI, CC BY 4.0)",
        "tfds": f"{data.name}, of TensorFlow Datasets",
        "folder": "a folder of images",
        "given": "images given from Python",
    }
    split = "" if data.source == "folder" else f", split {data.split}"
    yield "data", sets[data.source] + split
    yield "mirrored at random", "yes" if data.flip else "no"
    yield "loss", f"{config.diffusion.loss}, weight {config.diffusion.weight}"
    yield "label dropout", config.diffusion.label_dropout
    yield "images per update", train.batch_size
    decay = f", cosine decay to 0 at {optim.decay_steps:,}" if optim.decay_steps else ""
    rate = f"{optim.learning_rate:g} after {optim.warmup_steps:,} updates of warm-up"
    yield "learning rate", rate + decay
    betas = f"betas {optim.beta1:g} and {optim.beta2:g}"
    yield "Adam", f"{betas}, eps {optim.eps:g}, weight decay {optim.weight_decay:g}"
    yield "gradient clipped at norm", optim.clip_norm or "no limit"
    if not raw:
        yield "decay of the averaged weights", optim.ema_decay
    yield "dropout", config.network.dropout
    yield "computed in", config.network.dtype
    yield "seed", train.seed


def _evaluation(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not records:
        yield "No evaluation of these weights is recorded."
    for record in records:
        samples, protocol = record["samples"], record.get("protocol", {})
        seeds = samples.get("seeds") or [0]
        steps = samples.get("steps") or "all"
        yield (
            f"{samples.get('n', 0):,} samples of each of {len(seeds)} seeds "
            f"({_words(samples.get('sampler'))}, {steps} steps, "
            f"{_words(samples.get('spacing'))} spacing) against "
            f"{_words(_against(record))}, protocol {_words(protocol.get('name'))}:"
        )
        lines = ["| metric | value | ± | better |", "|---|---|---|---|"]
        for key, row in _rows(record):
            spread = row.get("spread")
            known = (
                isinstance(spread, (int, float)) and abs(spread) <= sys.float_info.max
            )
            lines.append(
                f"| {_words(row.get('shown', key))} | {row['mean']:.5g} | "
                f"{f'{spread:.2g}' if known else ''} | {_words(row.get('better'))} |"
            )
        yield "\n".join(lines)
        notes = record.get("notes")
        if isinstance(notes, list) and notes:
            yield "\n".join(f"- {_words(note)}" for note in notes)

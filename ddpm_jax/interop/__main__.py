"""The command of interop: other people's weights in, and ours out.

python -m ddpm_jax.interop import SRC --workdir DIR
python -m ddpm_jax.interop export WORKDIR DST --format diffusers
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import pathlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from ddpm_jax import build, drawing, loading
from ddpm_jax.command import Path, one_line_errors, parse_call, prepare_jax
from ddpm_jax.config import to_dict
from ddpm_jax.interop.card import UNKNOWN, Known, evaluations_of
from ddpm_jax.interop.facts import GUESSED, Facts, Hints, overriding
from ddpm_jax.interop.folders import weights_file
from ddpm_jax.interop.json_files import write_json
from ddpm_jax.interop.origin import read_origin, write_origin
from ddpm_jax.interop.read import Weights, read_model
from ddpm_jax.interop.save import (
    check_free,
    new_folder,
    save_archive,
    save_diffusers,
)
from ddpm_jax.streams import outlive_readers
from ddpm_jax.training import checkpoints

_NO_HINTS = Hints()


def import_weights(
    src: Path,
    /,
    workdir: Path,
    hints: Annotated[Hints, tyro.conf.arg(name="")] = _NO_HINTS,
) -> None:
    """Makes a workdir to sample from out of published weights.

    Args:
        src: a folder of diffusers' or an archive of ddpm_jax, or a file of weights:
            .safetensors, .npz, or PyTorch's .pt, .pth, .ckpt or .bin.
        workdir: the workdir to make; it must not be there yet.
        hints: what the weights do not say.
    """
    check_free(workdir)
    weights = read_model(src, hints)
    origin = read_origin(weights_file(src).parent)
    with new_folder(workdir) as folder:
        values = to_dict(weights.config)
        checkpoints.save_model(
            folder / "checkpoints", weights.step, weights.params, values
        )
        write_json(folder / "config.json", values)
        write_origin(folder, origin)
    print(_report(src, workdir, weights))


def export_weights(
    workdir: Path,
    dst: Path,
    /,
    format: Literal["diffusers", "safetensors", "npz", "stablehlo"],
    step: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
    license: str = UNKNOWN,
    sampler: str = "ddpm",
    steps: int | None = None,
    spacing: str | None = None,
    lambda_min: float | None = None,
    eta: float = 0.0,
) -> None:
    """Writes the weights of a run for others to read.

    Args:
        workdir: a run, or a folder or file of weights that import could read unasked.
        dst: what to make: a folder, or for stablehlo a file; it must not be there yet.
        format: diffusers (a folder for its pipelines), safetensors or npz (an archive:
            config.json and one file of arrays), stablehlo (the sampler and its weights
            as one program, to run with jax alone).
        step: of the run's checkpoint; None = the newest.
        weights: the run's average, or raw: what it averages.
        license: of these weights, for the model card, as the Hugging Face hub names
            it: apache-2.0, cc-by-4.0, ...
        sampler: stablehlo: ddpm, ddim, dpm_solver_pp, unipc or heun.
        steps: stablehlo: steps of the reverse chain; None = all.
        spacing: stablehlo: which steps: uniform, trailing, logsnr, karras, heun, ...;
            None = those that suit the sampler.
        lambda_min: stablehlo: where logsnr, karras and heun cut the chain, in
            log(alpha / sigma); None = their own.
        eta: stablehlo: of ddim; 0 = deterministic, 1 = as noisy as ddpm.
    """
    check_free(dst)
    of_sampler = (sampler, steps, spacing or "uniform", lambda_min, eta)
    if format != "stablehlo" and of_sampler != ("ddpm", None, "uniform", None, 0.0):
        raise ValueError(
            "--sampler, --steps, --spacing, --lambda-min and --eta belong to --format "
            f"stablehlo; got them with {format}"
        )
    build.check_spacing(steps, spacing, lambda_min)
    model = loading.load(workdir, step=step, weights=weights)
    parts = (dst, model.config, model.params)
    if format == "diffusers":
        known = _known(workdir, model, license, weights)
        save_diffusers(*parts, step=model.step, known=known)
    elif format == "stablehlo":
        model.export(
            dst,
            sampler=build.make_sampler(sampler, eta=eta),
            steps=steps,
            spacing=spacing,
            lambda_min=lambda_min,
        )
    else:
        known, npz = _known(workdir, model, license, weights), format == "npz"
        save_archive(*parts, step=model.step, npz=npz, known=known)
    print(f"wrote step {model.step} of {workdir} as {format} to {dst}")
    if format == "diffusers" and model.config.data.num_classes is not None:
        print(
            "it is class-conditional, and diffusers' DDPMPipeline gives no labels: "
            "load UNet2DModel from unet/ and DDPMScheduler from scheduler/, and call "
            "unet(x, t, class_labels) in a loop of scheduler.step"
        )


def _known(workdir: pathlib.Path, model: Any, license: str, weights: str) -> Known:
    """What a card tells of weights in a workdir, or in an export."""
    run = (workdir / "checkpoints").is_dir()
    origin = read_origin(workdir if run else weights_file(workdir).parent)
    logs = ("metrics.jsonl", "starts.json")  # an import has neither
    logged = run and any((workdir / name).is_file() for name in logs)
    return Known(
        trained=logged or origin.trained,
        raw=origin.raw or weights == "raw",
        evaluations=evaluations_of(workdir, drawing.digest(model)),
        license=license,
    )


def _report(src: pathlib.Path, workdir: pathlib.Path, weights: Weights) -> str:
    """What was read, and where each field of the config comes from."""
    count = sum(np.size(array) for array in jax.tree.leaves(weights.params))
    place = f"{src} {weights.entry}".rstrip()
    lines = [f"read {place}: layout {weights.layout!r}, {count:,} parameters"]
    if weights.others:
        lines.append(f"not taken: {', '.join(weights.others)}")
    said = dict(weights.sources)
    guessed = said.pop(GUESSED, {})
    lines += [f"{source}: {_said(facts)}" for source, facts in said.items()]
    lines.append(
        "so: network.attention_resolutions="
        f"{_shown(weights.config.network.attention_resolutions)}"
    )
    lines.append(f"wrote {workdir}")
    if guessed:
        options = " ".join(f"--{x.replace('_', '-')}" for x in overriding(guessed))
        lines.append(f"guessed: {_said(guessed)}; override with {options}")
    return "\n".join(lines)


def _said(facts: Facts) -> str:
    return ", ".join(f"{key}={_shown(facts[key])}" for key in sorted(facts))


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 20:
        return f"<{len(value)} numbers>"
    return str(value).replace(" ", "")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line, or these arguments in its place."""
    call = parse_call(
        {"import": import_weights, "export": export_weights},
        prog="python -m ddpm_jax.interop",
        description="Weights in and out. Imported: Ho's, OpenAI's, diffusers'.",
        args=arguments,
    )
    prepare_jax()
    call()


def run(function: Callable[..., None], prog: str) -> None:
    """Is a program of that name that does one of the two, to its exit code."""
    with one_line_errors():
        outlive_readers()
        call = parse_call(function, prog=prog)
        prepare_jax()
        call()


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        main()

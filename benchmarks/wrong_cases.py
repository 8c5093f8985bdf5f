"""The wrong options of `wrong_options.py`, and the tree that they are tried on."""

import dataclasses
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
NO_TEXT = b"caf\xe9"  # a name in Latin-1

Words = tuple[str | bytes, ...]  # the arguments of a command


def make_tree(root: pathlib.Path) -> None:
    """What the commands are let loose on."""
    train = [sys.executable, "train.py", "--config", "configs/smoke.py", "--workdir"]
    short = ["--train.num-steps", "2", "--sample.steps", "2", "--sample.num", "4"]
    subprocess.run(
        [*train, root / "run", *short], cwd=ROOT, check=True, capture_output=True
    )
    export = ["-m", "ddpm_jax.interop", "export", "--format", "npz"]
    subprocess.run(
        [sys.executable, *export, root / "run", root / "weights"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (root / "empty").mkdir()
    (root / "here").mkdir()  # the working directory
    (root / "file").write_text("no folder\n")
    (root / "held").mkdir()
    (root / "held" / "unfinished").mkdir()
    (root / "held" / "unfinished" / "chapter.txt").write_text("somebody's\n")
    images = root / "images"
    images.mkdir()
    for i in range(3):
        pixels = np.full((8, 8, 3), 80 * i, np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    (root / "bad").mkdir()
    (root / "bad" / "0.png").write_bytes(b"no picture")
    for name, text in {
        "none": "x = 1\n",
        "syntax": "def get_config(:\n",
        "raises": "def get_config():\n    raise KeyError('x')\n",
        "other": "def get_config():\n    return 3\n",
        "field": "from ddpm_jax.config import TrainConfig\n"
        "def get_config():\n    return TrainConfig(batchsize=1)\n",
        "imports": "import nothing_of_that_name\n",
    }.items():
        (root / f"{name}.py").write_text(text)
    shutil.copytree(root / "run", root / "later")  # whose checkpoint is lost
    shutil.rmtree(root / "later" / "checkpoints" / "2")
    (root / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (root / "weights.npz").write_bytes(b"PK\x03\x04")


def fields(config: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The options of a dataclass, with their types."""
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), item.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"--{prefix}{name}", hints[item.name]


def of_every_field(config: Any) -> Iterator[Words]:
    """Each option of `train.py` misspelt, without a value, or of another type."""
    for i, (option, hint) in enumerate(fields(config, "")):
        faults: list[Words] = [(f"{option[:-1]}x{option[-1]}", "1")]
        numbers = {int, float} & {hint, *typing.get_args(hint)}
        if hint is bool:
            faults.append((option, "maybe"))
        elif numbers or typing.get_origin(hint) is typing.Literal:
            faults.append((option, "many"))
            if typing.get_origin(hint) is not tuple:  # which may be empty
                faults.append((option,))
        if hint is int or int in typing.get_args(hint):
            faults.append((option, "1.5"))
        yield faults[i % len(faults)]


RANGES = {  # options of `train.py`, and values that none can have
    "--train.num-steps": ("0", "-1"),
    "--train.batch-size": ("0", "-16", "17"),
    "--train.accumulate": ("0", "3", "-1"),
    "--train.fsdp": ("0", "-1", "7"),
    "--train.log-every": ("0", "-5"),
    "--train.checkpoint-every": ("0", "-5"),
    "--train.keep-latest": ("0", "-1"),
    "--train.keep-every": ("0",),
    "--train.keep-best": ("-1",),
    "--train.seed": ("-1", "99999999999999999999999"),
    "--sample.every": ("0",),
    "--sample.num": ("0", "-4"),
    "--sample.steps": ("0", "-1", "21", "1"),
    "--optim.learning-rate": ("0", "-1", "nan", "inf"),
    "--optim.warmup-steps": ("-1",),
    "--optim.decay-steps": ("0", "4", "-1"),
    "--optim.beta1": ("1", "-0.1", "nan"),
    "--optim.beta2": ("1", "2"),
    "--optim.eps": ("0", "-1", "nan", "inf"),
    "--optim.weight-decay": ("-1", "nan", "inf"),
    "--optim.clip-norm": ("0", "-1", "nan"),
    "--optim.ema-decay": ("1", "-1", "nan"),
    "--network.channels": ("0", "-8", "9"),
    "--network.num-blocks": ("0", "-1"),
    "--network.num-groups": ("0", "3", "-1"),
    "--network.num-heads": ("0", "3", "-1"),
    "--network.head-channels": ("0", "3"),
    "--network.dropout": ("1", "-0.1", "nan"),
    "--network.norm-eps": ("-1", "nan", "inf"),
    "--network.time-scale": ("0", "nan", "inf"),
    "--network.freq-shift": ("4", "-1"),
    "--network.attention-resolutions": ("3", "0", "-4"),
    "--network.multipliers": ("0", "-1", "0.3", "nan"),
    "--diffusion.schedule.num-steps": ("0", "1", "-1", "2000000000"),
    "--diffusion.schedule.start": ("0", "1", "-1", "nan"),
    "--diffusion.schedule.end": ("0", "1", "2", "nan"),
    "--diffusion.label-dropout": ("1", "-0.1", "nan"),
    "--diffusion.clip.bound": ("0", "-1", "nan", "inf"),
    "--data.image-size": ("0", "-8", "9", "16"),
    "--data.channels": ("0", "2", "3", "4"),
    "--data.num-classes": ("0", "-1", "3"),
    "--data.workers": ("-1",),
    "--distributed.num-processes": ("2", "0"),
    "--distributed.process-id": ("0", "-1"),
    "--distributed.coordinator": ("host", "host:0", "host:port", "a:1"),
    "--distributed.local-devices": ("-1", "0 0"),
}
AT_ODDS = (  # options of `train.py` that do not go together
    "--network.downsample-padding 0 0",
    "--network.downsample-padding -1 0",
    "--network.downsample-padding 9 9",
    "--network.downsample-padding 1",
    "--diffusion.loss hybrid",
    "--diffusion.variance learned",
    "--diffusion.loss vlb --diffusion.weight p2",
    "--diffusion.schedule.zero-terminal-snr",
    "--diffusion.schedule.kind jsd",
    "--diffusion.schedule.kind cosine",
    "--diffusion.schedule.offset 0.1",
    "--diffusion.schedule.kind explicit",
    "--diffusion.clip.kind none --diffusion.clip.bound 2",
    "--data.num-classes None",
    "--data.source tfds",
    "--data.source tfds --data.name nothing_of_that_name",
    "--data.source folder",
    "--data.source digits --data.split nothing",
    "--data.source digits --data.test-split nothing --data.split nothing",
    "--train.runner pmap --train.fsdp 2",
    "--network.no-null-label",
    "--network.multipliers 1 2 2 2 2",
    "--network.multipliers",
    "--train",
    "train.batch-size 3",
    "extra",
    "-x",
    "--",
    "--train.batch-size=",
    "--train.batch-size 1 2",
    "--train.batch-size 4 --train.batch-size x",
    "--train.batch_sise 3",
    "--Train.Batch-Size 3",
    "--network.remat True",
    "--network.dtype float16",
    "--sample.sampler euler",
    "--sample.sampler ddim --sample.steps 99",
    "--diffusion.predict epsilon",
    "--data.path= --data.source folder --data.num-classes None "
    "--diffusion.label-dropout 0",
)


def of_train(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of `train.py`."""
    smoke = ("--config", str(ROOT / "configs" / "smoke.py"))
    new, run = ("--workdir", str(root / "new")), ("--workdir", str(root / "run"))
    config = runpy.run_path(smoke[1])["get_config"]()
    for words in of_every_field(config):
        yield (*smoke, *new, *words)
    for option, values in RANGES.items():
        for value in values:
            yield (*smoke, *new, option, *value.split())
    for words in AT_ODDS:
        yield (*smoke, *new, *words.split())
    for other in (  # than the run was made with
        *("--network.channels 16", "--train.seed 1", "--diffusion.predict v"),
        *("--optim.clip-norm None", "--diffusion.schedule.num-steps 30"),
        *(
            "--data.num-classes None --diffusion.label-dropout 0",
            "--network.num-heads 2",
        ),
    ):
        yield (*smoke, *run, *other.split())
    for name in ("none", "syntax", "raises", "other", "field", "imports", "missing"):
        yield ("--config", str(root / f"{name}.py"), *new)
    for path in ("", "file", "empty", "images/0.png", "weights.npz"):
        yield ("--config", str(root / path), *new)
    yield ("--config",)
    yield ("--config", "", *new)
    yield ("--config", os.fsencode(root) + b"/" + NO_TEXT, *new)
    yield (*smoke, "--workdir")
    for path in (
        *("file", "file/below", "images/0.png", "run/checkpoints"),
        *("run/checkpoints/2", "run/config.json"),
    ):
        yield (*smoke, "--workdir", str(root / path))
    for path in ("", "gs://bucket/run", "/proc/none/run", "/dev/null", "/sys/run"):
        yield (*smoke, "--workdir", path)
    folder = ("--data.source", "folder", "--data.no-resize", "--data.path")
    free = ("--data.num-classes", "None", "--diffusion.label-dropout", "0")
    for path in ("missing", "file", "empty", "bad", "run", "images", "weights.npz"):
        yield (*smoke, *new, *folder, str(root / path), *free)
    yield (*smoke, *new, *folder, os.fsencode(root) + b"/" + NO_TEXT, *free)
    yield (*smoke, *new, *folder, str(root / "images"), "--data.channels", "3")


DRAWS = (  # options of `sample.py`
    *("--num 0", "--num -1", "--num many", "--num", "--num 1.5", "--num 500"),
    *("--batch-size 0", "--batch-size x", "--seed x", "--seed", "--seed -1"),
    *("--seed 99999999999999999999999", "--sampler euler", "--sampler", "--steps 0"),
    *("--steps -1", "--steps 1", "--steps 21", "--steps x", "--spacing trailing"),
    *("--spacing even --steps 5", "--spacing --steps 5", "--eta 0.5", "--eta x"),
    *("--sampler ddim --eta 1.5", "--sampler ddim --eta -1", "--label 10"),
    *(
        "--sampler ddim --eta nan",
        "--label -1",
        "--label cat",
        "--label",
        "--label 1 99",
    ),
    *("--guidance 2", "--guidance x --label 1", "--guidance nan --label 1"),
    *("--guidance inf --label 1", "--wokdir x", "--png yes", "--gif --npz extra"),
    *("--no-such", "extra", "--sampler heun --eta 1", "--distributed.process-id 1"),
    *("--distributed.coordinator host:1", "--num 4 --num x", "--steps 5 --spacing ''"),
)


def of_sample(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of `sample.py`."""
    run = ("--workdir", str(root / "run"))
    for words in DRAWS:
        yield (*run, *words.split())
    yield from _of_workdirs(root, ())
    for path in ("file", "file/below", "held", "images/0.png"):
        yield (*run, "--out", str(root / path), "--num", "2", "--steps", "2")
    for path in ("", "/proc/none", "/dev/null"):
        yield (*run, "--out", path, "--num", "2", "--steps", "2")
    yield (*run, "--out")


def of_likelihood(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of the likelihood."""
    run = ("--workdir", str(root / "run"))
    for words in (
        *("--num 0", "--num -1", "--num 300", "--num x", "--num", "--split nothing"),
        *("--split", "--batch-size 0", "--batch-size x", "--steps 0", "--steps 1"),
        *("--steps 21", "--steps x", "--seed x", "--seed", "--sed 1", "extra"),
        *("--seed -1", "--seed 99999999999999999999999", "--steps -1"),
    ):
        yield (*run, *words.split())
    yield from _of_workdirs(root, ())
    for path in ("file", "file/below"):
        yield (*run, "--out", str(root / path), "--num", "2", "--steps", "2")
    for path in ("", "/proc/none", "/dev/null"):
        yield (*run, "--out", path, "--num", "2", "--steps", "2")


def of_figures(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of the figures."""
    run, out = ("--workdir", str(root / "run")), ("--out", str(root / "new"))
    for words in (
        *("", "nothing", "schedules more", "Schedules", "all --num 1", "steps --num 0"),
        *("sampling --seed x", "sampling --seed", "sampling --sed 1", "bound --num x"),
        *("--num 4", "steps --num -1", "sampling --seed 99999999999999999999999"),
    ):
        yield (*words.split(), *run, *out)
    yield from _of_workdirs(root, ("sampling", *out))
    for path in ("file", "file/below"):
        yield ("schedules", "--out", str(root / path))
    for path in ("", "/proc/none", "/dev/null"):
        yield ("schedules", "--out", path)


def of_interop(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of import and export."""
    run, new = str(root / "run"), str(root / "new")
    weights = str(root / "weights")
    yield from ((), ("imprt",), ("import",), ("export",), ("--help-me",))
    yield from (("export", run), ("export", run, new), ("import", weights))
    for words in (
        *("--format pt", "--format", "--step 3 --format npz", "--step x --format npz"),
        *("--sampler ddim --format npz", "--steps 3 --format diffusers"),
        *("--format stablehlo --sampler euler", "--format stablehlo --steps 99"),
        *("--format stablehlo --spacing even --steps 3", "--frmat npz"),
        *("--format stablehlo --spacing trailing", "--format npz extra"),
        *("--format stablehlo --eta 1", "--format stablehlo --sampler ddim --eta x"),
    ):
        yield ("export", run, new, *words.split())
    for path in ("", "file", "empty", "missing", "later", "run/config.json"):
        yield ("export", str(root / path), new, "--format", "npz")
    for path in ("file", "run", "file/below"):
        yield ("export", run, str(root / path), "--format", "npz")
    for path in ("", "/proc/none", "/dev/null"):
        yield ("export", run, path, "--format", "npz")
    for words in (
        *("--num-heads 0", "--num-heads x", "--num-heads 2 --head-channels 2"),
        *("--norm-eps -1", "--norm-eps nan", "--schedule jsd", "--predict eps2"),
        *("--variance big", "--num-steps 1", "--num-steps x", "--start 2", "--end 0"),
        *("--image-size 0", "--image-size x", "--attention-order old", "--step -1"),
        *("--clip maybe", "--num-groups 3", "--time-scale nan", "--step x", "extra"),
    ):
        yield ("import", weights, "--workdir", new, *words.split())
    for path in (
        *("", "file", "empty", "missing", "images", "images/0.png", "later"),
        *("weights.safetensors", "weights.npz", "none.py", "run/checkpoints"),
    ):
        yield ("import", str(root / path), "--workdir", new)
    yield ("import", os.fsencode(root) + b"/" + NO_TEXT, "--workdir", new)
    for path in ("file", "run", "file/below"):
        yield ("import", weights, "--workdir", str(root / path))
    for path in ("", "/proc/none", "/dev/null"):
        yield ("import", weights, "--workdir", path)


def of_data(root: pathlib.Path) -> Iterator[Words]:
    """Wrong options of the check of a folder."""
    yield from ((), ("check",), ("chek", str(root / "images")))
    for path in ("missing", "file", "empty", "bad", "images/0.png"):
        yield ("check", str(root / path))
    yield ("check", os.fsencode(root) + b"/" + NO_TEXT)
    for words in (
        *("--image-size 0", "--image-size x", "--image-size", "--image-size -1"),
        *("--image-size 9", "--resize yes", "extra", "--rsize"),
    ):
        yield ("check", str(root / "images"), *words.split())


def _of_workdirs(root: pathlib.Path, more: tuple[str, ...]) -> Iterator[tuple]:
    for path in (
        *("missing", "file", "empty", "images", "images/0.png", "run/checkpoints"),
        *("run/checkpoints/2", "run/samples", "later", "weights.npz", "file/below"),
    ):
        yield ("--workdir", str(root / path), *more)
    yield ("--workdir", "", *more)
    yield ("--workdir", os.fsencode(root) + b"/" + NO_TEXT, *more)
    yield ("--workdir",)
    yield ("--workdir", str(root / "run"), "--workdir", *more)


def cases(root: pathlib.Path) -> Iterator[tuple[str, Words]]:
    """All of them: the name of a command, its arguments."""
    for program, of in {
        "sample": of_sample,
        "interop": of_interop,
        "likelihood": of_likelihood,
        "figures": of_figures,
        "data": of_data,
        "train": of_train,
    }.items():
        yield from ((program, arguments) for arguments in of(root))

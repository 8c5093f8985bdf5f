"""What the metrics say of digits: real, spoiled, and drawn by every sampler.

    python benchmarks/quality.py --workdir runs/digits --hybrid runs/hybrid

The run is the README's. Every row has as many images as there are held-out digits, 299,
since a Frechet distance grows as they get fewer; samples are of several seeds. The
half-trained model is an earlier checkpoint of the run. Bits/dim are those that
`python -m ddpm_jax.evaluation.likelihood` has left in the workdirs.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import write

import ddpm_jax
from ddpm_jax.config import DataConfig
from ddpm_jax.data import load_digits
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import collect, extract
from ddpm_jax.evaluation.image_sets import ImageSet, of_array
from ddpm_jax.evaluation.measure import measure, observe
from ddpm_jax.evaluation.protocols import PROTOCOLS
from ddpm_jax.images import to_uint8
from ddpm_jax.model import Model

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS = (5, 10, 20, 50)
SAMPLERS = ("ddpm", "ddim", "dpm_solver_pp", "unipc", "heun")
METRICS = ("fd", "precision", "recall", "coverage", "memorisation")
REPEATED = 30  # training digits


def blurred(images: np.ndarray) -> np.ndarray:
    """Each pixel the mean of the 3 x 3 around it."""
    height, width = images.shape[1:3]
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [
        padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    return np.mean(parts, axis=0).astype(np.uint8)


def draw(model: Model, seed: int, num: int, **how: Any) -> np.ndarray:
    """Samples with the labels in turn."""
    label = np.arange(num) % 10
    return to_uint8(model.sample(seed, num, label=label, progress=False, **how))


def rows(
    options: argparse.Namespace, train: np.ndarray, test: np.ndarray
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, sets of images) of every row, one after the other."""
    num, rng = len(test), np.random.default_rng(0)
    some = train[rng.permutation(len(train))]
    yield "held-out digits", [test]
    yield "training digits, blurred", [blurred(some[:num])]
    repeated = np.tile(some[:REPEATED], (num // REPEATED + 1, 1, 1, 1))
    yield f"{REPEATED} training digits, repeated", [repeated[:num]]
    half = ddpm_jax.load(options.workdir, step=options.half)
    seeds = range(options.seeds)
    yield (
        f"half-trained ({options.half} updates), DDPM",
        [draw(half, seed, num) for seed in seeds],
    )
    model = ddpm_jax.load(options.workdir)
    for name in SAMPLERS:
        for steps in (*STEPS, None):
            if steps is None and name not in options.whole:
                continue
            how = {"sampler": name, "steps": steps}
            shown = f"{name}, {steps or model.schedule.num_steps} steps"
            yield shown, [draw(model, seed, num, **how) for seed in seeds]


def guided(model: Model, num: int) -> dict[str, float]:
    """The share of guided samples, and of real digits, judged as their label."""
    network, facts = classifier.find(DataConfig())
    images = draw(model, 0, num, sampler="ddim", steps=50, guidance=2.0)
    logits = collect(extract(network, images, taps=["logits"]))["logits"]
    right = float(np.mean(logits.argmax(-1) == np.arange(num) % 10))
    return {
        f"{num} samples with guidance 2, judged as their label": right,
        "held-out digits, judged as theirs": facts.accuracy,
    }


def likelihoods(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Bits per dimension that the likelihood command has left in the workdirs."""
    for name, workdir in (("fixed", options.workdir), ("learned", options.hybrid)):
        if workdir and (path := workdir / "likelihood" / "bits_per_dim.json").exists():
            found = json.loads(path.read_text())
            yield (
                f"bits/dim, held out, {name} variance",
                f"{found['bits_per_dim']:.3f} ± {found['standard_error']:.3f}",
            )


def main() -> None:
    """Draws, measures, prints the table row by row and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/digits")
    parser.add_argument("--hybrid", type=pathlib.Path, help="a learned-variance run")
    parser.add_argument("--half", type=int, default=1000, help="its checkpoint")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--whole", nargs="*", default=SAMPLERS, help="with all steps")
    parser.add_argument("--labelled", type=int, default=500)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "quality.json")
    options = parser.parse_args()

    network, _ = classifier.find(DataConfig())
    protocol = PROTOCOLS["classifier"]
    train, test = load_digits("train").images, load_digits("test").images

    def seen(images: np.ndarray, *, reference: bool = False) -> Any:
        given: ImageSet = of_array(images, "digits", {})
        return observe(network, given, protocol, METRICS, reference=reference)

    real = dataclasses.replace(
        seen(train, reference=True),
        trained=True,
        held_out=of_array(test, "test", {}),
    )
    print("| images | digits-FD | precision | recall | coverage | memorisation | s |")
    print("|---|---|---|---|---|---|---|")
    table: dict[str, Any] = {}
    began = time.perf_counter()
    for name, sets in rows(options, train, test):
        found = [measure(seen(images), real, protocol, METRICS)[0] for images in sets]
        values = {x: [each[x].value for each in found] for x in METRICS}
        table[name] = values
        cells = []
        for x in METRICS:
            cell = f"{np.mean(values[x]):.3f}"
            if len(values[x]) > 1:
                cell += f" ± {np.std(values[x], ddof=1):.3f}"
            cells.append(cell)
        seconds = time.perf_counter() - began
        print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        began = time.perf_counter()
    model = ddpm_jax.load(options.workdir)
    judged = guided(model, options.labelled)
    bits = dict(likelihoods(options))
    for name, value in (judged | bits).items():
        print(f"{name}: {value}")
    record = {"trained_steps": model.step, "images": len(test), "rows": table}
    write(options.out, record | {"judged": judged, "likelihood": bits})


if __name__ == "__main__":
    main()

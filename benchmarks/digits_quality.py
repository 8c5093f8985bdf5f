"""Samples of the README's run against real digits.

    python benchmarks/digits_quality.py --workdir runs/digits [--hybrid runs/hybrid]

Distances are L2 over the 64 pixels in [-1, 1], to the nearest training digit; the
yardstick is the median over the held-out digits. Samples should lie as close as those
do: much farther is not a digit, much closer is a copy. Labels are judged by a
3-nearest-neighbour vote of the training digits. Bits/dim are those that
`python -m ddpm_jax.evaluation.likelihood` has left in the workdirs.
"""

import argparse
import json
import pathlib

import jax.numpy as jnp
import numpy as np
from measure import write

import ddpm_jax
from ddpm_jax.data import load_digits
from ddpm_jax.evaluation.neighbours import distances, nearest_distances
from ddpm_jax.images import to_uint8

RESULTS = pathlib.Path(__file__).parent / "results"
SEED = 20


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images as rows of float64 in [-1, 1]."""
    return images.reshape(len(images), -1) / 127.5 - 1


def vote(between: np.ndarray, labels: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """The label that most of the nearest have; the nearest's own where all differ."""
    nearest = labels[np.argsort(between, axis=1)[:, :neighbours]]
    counts = np.stack([np.bincount(row, minlength=10) for row in nearest])
    winner = counts.argmax(1)
    return np.where(counts.max(1) > 1, winner, nearest[:, 0])


def main() -> None:
    """Draws, measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/digits")
    parser.add_argument("--hybrid", type=pathlib.Path, help="a learned-variance run")
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--labelled", type=int, default=500)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "digits.json")
    options = parser.parse_args()

    train, test = load_digits("train"), load_digits("test")
    train_pixels, test_pixels = pixels(train.images), pixels(test.images)
    held_out = float(np.median(nearest_distances(test_pixels, train_pixels)))
    model = ddpm_jax.load(options.workdir)

    def draw(count: int, name: str, steps: int | None = None, **more) -> np.ndarray:
        label = jnp.arange(count) % 10
        x = model.sample(SEED, count, sampler=name, steps=steps, label=label, **more)
        return to_uint8(x)

    def median(images: np.ndarray) -> float:
        return float(np.median(nearest_distances(pixels(images), train_pixels)))

    ancestral = draw(options.num, "ddpm")
    full = median(ancestral)
    nearest = float(nearest_distances(pixels(ancestral), train_pixels).min())
    ddim = median(draw(options.num, "ddim", 20))
    solver = median(draw(options.num, "dpm_solver_pp", 10, spacing="logsnr"))
    uniform = median(draw(options.num, "dpm_solver_pp", 10, spacing="uniform"))
    guided = draw(options.labelled, "ddim", 50, guidance=2.0)
    judged = vote(distances(pixels(guided), train_pixels), train.labels)
    right = float(np.mean(judged == np.arange(options.labelled) % 10))
    real = vote(distances(test_pixels, train_pixels), train.labels)
    real_right = float(np.mean(real == test.labels))

    rows = [
        ("held-out digits, median distance", held_out, ""),
        ("1000 ancestral steps, median distance", full, ""),
        ("... over held-out", full / held_out, "0.70 to 1.15"),
        ("DDIM, 20 steps, over ancestral", ddim / full, "at most 1.25"),
        (
            "DPM-Solver++, 10 steps even in log-SNR, the same",
            solver / full,
            "at most 1.25",
        ),
        ("DPM-Solver++, 10 steps even in t, the same", uniform / full, ""),
        ("guidance 2, judged as their label", right, "at least 0.95"),
        ("real held-out digits, judged as their label", real_right, ""),
        ("the sample nearest to a training digit", nearest, "above 0: no copy"),
    ]
    for name, workdir in (("fixed", options.workdir), ("learned", options.hybrid)):
        if workdir and (path := workdir / "likelihood" / "bits_per_dim.json").exists():
            bits = json.loads(path.read_text())["bits_per_dim"]
            bound = "below the fixed" if name == "learned" else ""
            rows.append((f"bits/dim, held out, {name} variance", bits, bound))
    print("| measure | value | bound |\n|---|---|---|")
    for name, value, bound in rows:
        print(f"| {name} | {value:.3f} | {bound} |")
    result = {name: {"value": value, "bound": bound} for name, value, bound in rows}
    write(options.out, {"trained_steps": model.step, "measures": result})


if __name__ == "__main__":
    main()

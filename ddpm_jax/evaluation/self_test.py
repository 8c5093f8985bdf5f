"""Known statistics in, known values out: what an evaluator shows before it is trusted.

And whether the compiler that runs the networks computes what it is told.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from ddpm_jax.evaluation.frechet import frechet_distance, frechet_infinity
from ddpm_jax.evaluation.inception_score import inception_score
from ddpm_jax.evaluation.kernel import kernel_distance
from ddpm_jax.evaluation.moments import covariance, moments_of
from ddpm_jax.evaluation.neighbours import (
    density_coverage,
    memorisation,
    precision_recall,
)
from ddpm_jax.evaluation.sliced import mind


class Check(NamedTuple):
    """A line of the table."""

    name: str
    value: float
    expected: float
    tolerance: float  # absolute

    @property
    def ok(self) -> bool:
        """Whether the value is the expected one; NaN never is."""
        return abs(self.value - self.expected) <= self.tolerance


def self_test() -> list[Check]:
    """Every metric on distributions of which its value is known, and the compiler.

    Takes a second or two. Nothing is raised where a value is wrong: look at `ok`.
    """
    return [*_of_gaussians(), *_of_sets(), _of_compiler()]


def check_compiler() -> None:
    """Refuses a jaxlib that sums wrongly, before it computes any features.

    Raises:
        ImportError: if this one does, with its version.
    """
    found = _of_compiler()
    if not found.ok:
        raise ImportError(
            f"jaxlib {jaxlib.__version__} computes wrongly on {jax.default_backend()}: "
            f"a sum of squares is off by {found.value:.2g} of itself; install another "
            "version of jax and jaxlib"
        )


def _of_gaussians() -> Iterator[Check]:
    d, rng = 64, np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
    l1, l2 = rng.uniform(0, 4, (2, d))
    cov1, cov2 = basis * l1 @ basis.T, basis * l2 @ basis.T
    mean, zero = np.full(d, 0.5), np.zeros(d)
    apart = float(d / 4 + ((np.sqrt(l1) - np.sqrt(l2)) ** 2).sum())
    found = frechet_distance(mean, cov1, zero, cov2)
    yield Check("Fréchet distance of two Gaussians", found, apart, 1e-9)

    half = np.arange(d) < d // 2
    cov1, cov2 = basis * (l1 * half) @ basis.T, basis * (l2 * ~half) @ basis.T
    found = frechet_distance(zero, cov1, zero, cov2)
    apart = float(np.trace(cov1) + np.trace(cov2))
    yield Check("... of half the rank, at right angles", found, apart, 1e-9)

    features = np.concatenate([basis, -basis]).astype(np.float32) * np.float32(d**0.5)
    batches = np.array_split(features, 37)
    of_a, of_b = moments_of(batches), moments_of(2 * x + 1 for x in batches)
    found = frechet_distance(of_a.mean, covariance(of_a), of_b.mean, covariance(of_b))
    apart = d + d * 2 * d / (2 * d - 1)  # the shift, and (2 - 1)^2 of each variance
    yield Check("... of features in 37 batches", found, apart, 1e-4)

    x = np.random.default_rng(1).standard_normal((2000, 8))
    found = frechet_infinity(x, np.zeros(8), np.eye(8)).value
    yield Check("... at infinity, of the reference's own law", found, 0, 0.02)

    line = np.linspace(-3, 3, 300)[:, None]
    found = mind(line, line + 0.5)
    yield Check("MIND of a shift", found, 0.75, 1e-12)
    found = mind(line.repeat(2, 0), line + 0.5)
    yield Check("... of sets of 600 and 300", found, 0.75, 1e-12)


def _of_sets() -> Iterator[Check]:
    certain = 1000 * np.eye(10)[np.arange(500) % 10]
    found = inception_score(certain).mean
    yield Check("Inception score, certain of 10 classes", found, 10, 1e-9)
    found = inception_score(np.zeros((500, 10))).mean
    yield Check("... and of none", found, 1, 1e-9)

    zeros, ones = np.zeros((40, 16)), np.ones((50, 16))
    yield Check("KID of 0 and 1", kernel_distance(zeros, ones), 7, 1e-9)  # 1 + 8 - 2

    near = np.arange(50.0)[:, None]
    real = np.concatenate([near, near + 1000])
    fidelity = precision_recall(near + 0.25, real)
    yield Check("precision without one of two modes", fidelity.precision, 1, 1e-12)
    yield Check("recall without it", fidelity.recall, 0.5, 1e-12)
    cover = density_coverage(near + 0.25, real).coverage
    yield Check("coverage without it", cover, 0.5, 1e-12)
    found = memorisation(near + 0.25, near, near + 0.5)
    yield Check("memorisation at half the distance", found, 0.5, 1e-12)


def _of_compiler() -> Check:
    """The largest relative error of sums of squares of (i, 0, 0) for many i.

    jaxlib 0.10.2 on CPU takes them of other rows from the 32,769th on.
    """
    i = jnp.arange(40_000, dtype=jnp.float32)
    rows = jnp.pad(i[:, None], ((0, 0), (0, 2)))
    with jax.default_matmul_precision("highest"):
        squares = jax.jit(jax.vmap(lambda r: jnp.sum((jnp.eye(3) @ r) ** 2)))(rows)
    wanted = np.arange(40_000.0) ** 2
    error = np.abs(np.asarray(squares) - wanted) / np.maximum(wanted, 1)
    name = f"sums by jaxlib {jaxlib.__version__} on {jax.default_backend()}, error"
    return Check(name, float(error.max()), 0, 1e-5)

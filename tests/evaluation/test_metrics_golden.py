"""The values of torch-fidelity, however the features arrive."""

import itertools
import pathlib

import numpy as np
import pytest

from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.inception_score import chunked, inception_score
from ddpm_jax.evaluation.kernel import kernel_distance_subsets
from ddpm_jax.evaluation.moments import covariance, moments, moments_of
from ddpm_jax.evaluation.neighbours import precision_recall

FILE = pathlib.Path(__file__).parents[1] / "golden" / "evaluation_metrics.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FILE))


def batches(rows, count=37):
    """So many batches, no two of one size where that can be."""
    edges = np.unique(np.linspace(0, len(rows) ** 0.5, count + 1) ** 2).astype(int)
    return np.split(rows, edges[1:-1])


@pytest.mark.parametrize("how", ["one array", "37 batches", "single images"])
def test_fid(golden, how):
    a, b = golden["features_a"], golden["features_b"]
    cut = {"one array": 1, "37 batches": 37, "single images": 0}[how]
    parts = [batches(x, cut) if cut else np.split(x, len(x)) for x in (a, b)]
    of_a, of_b = (moments_of(x) for x in parts)
    assert of_a.count == 400 and of_a.mean.dtype == of_a.scatter.dtype == np.float64
    found = frechet_distance(of_a.mean, covariance(of_a), of_b.mean, covariance(of_b))
    wanted = golden["metrics/frechet_inception_distance"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # The cut moves the last digits alone.
    np.testing.assert_allclose(covariance(of_a), np.cov(a.T), rtol=0, atol=1e-12)
    np.testing.assert_allclose(of_b.mean, b.astype(float).mean(0), rtol=0, atol=1e-13)


def test_inception_score(golden):
    found = inception_score(golden["logits"])
    np.testing.assert_allclose(
        found,
        (golden["metrics/inception_score_mean"], golden["metrics/inception_score_std"]),
        rtol=1e-6,
    )


def test_kid(golden):
    a, b = golden["features_a"], golden["features_b"]
    found = kernel_distance_subsets(a, b, subsets=1, size=400)
    wanted = golden["metrics/kernel_inception_distance_mean"]
    np.testing.assert_allclose(found.mean, wanted, rtol=1e-6)
    assert found.std == 0


def test_precision_and_recall(golden):
    found = precision_recall(golden["features_a"], golden["features_b"])
    wanted = golden["metrics/precision"], golden["metrics/recall"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_chunks_come_in_order_and_the_last_may_be_smaller(golden):
    """By hand, in plain probabilities."""
    logits = golden["logits"].astype(np.float64)[:700]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def score(part):
        return np.exp((part * np.log(part / part.mean(0))).sum(1).mean())

    wanted = np.mean([score(p[:300]), score(p[300:600]), score(p[600:])])
    np.testing.assert_allclose(chunked(logits, 300), wanted, rtol=1e-12)
    np.testing.assert_allclose(chunked(logits), score(p), rtol=1e-12)
    # 103 images in 10 splits: each begins at a tenth of all, rounded down.
    edges = [0, 10, 20, 30, 41, 51, 61, 72, 82, 92, 103]
    scores = [score(p[:103][i:j]) for i, j in itertools.pairwise(edges)]
    found = inception_score(logits[:103])
    np.testing.assert_allclose(found, (np.mean(scores), np.std(scores)), rtol=1e-12)
    (shuffled, _), (ordered, _) = (
        inception_score(logits, seed=seed) for seed in (2020, None)
    )
    order = np.random.RandomState(2020).permutation(700)
    np.testing.assert_allclose(shuffled, inception_score(logits[order]).mean)
    assert abs(shuffled - ordered) > 1e-4


def test_many_rows_at_once_are_as_few(golden):
    """Beyond a block, of every type that features come in."""
    rows = np.tile(golden["features_a"], (6, 1)) + np.arange(2400)[:, None] / 100
    whole = moments_of(batches(rows))
    assert whole.count == moments(rows).count == 2400
    np.testing.assert_allclose(covariance(whole), np.cov(rows.T), rtol=1e-11)
    np.testing.assert_allclose(
        covariance(whole, ddof=0), np.cov(rows.T, ddof=0), rtol=1e-11
    )
    np.testing.assert_allclose(whole.mean, rows.mean(0), rtol=1e-13)
    for dtype in (np.float32, np.float16):
        found = moments(rows.astype(dtype))
        np.testing.assert_allclose(
            found.scatter, moments(rows.astype(dtype).astype(float)).scatter
        )

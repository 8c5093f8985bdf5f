"""Metrics against torch-fidelity's own functions, in one process."""

import numpy as np
import pytest

from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.inception_score import inception_score
from ddpm_jax.evaluation.kernel import kernel_distance_subsets
from ddpm_jax.evaluation.moments import covariance, moments
from ddpm_jax.evaluation.neighbours import precision_recall


def made(kind, n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if kind == "rank-deficient":  # a space of 5 dimensions, another for each seed
        return x[:, :5] @ rng.normal(size=(5, d)) + seed
    if kind == "of one rank-deficient space":
        return x[:, :5] @ np.random.default_rng(0).normal(size=(5, d)) + seed
    if kind == "constant":
        return np.full((n, d), 0.1 * seed)
    if kind == "one is constant":
        return x if seed == 1 else np.full((n, d), 0.3)
    if kind == "repeated":
        return np.repeat(x[: n // 4], 4, axis=0)
    if kind == "positive":  # as pooled features are
        return np.abs(x @ rng.normal(size=(d, d))) * rng.uniform(0, 1, d)
    return x * (1 + seed / 4) + seed / 8


CASES = {
    "random": (300, 260, 32),
    "positive": (300, 260, 32),
    "rank-deficient": (200, 180, 24),
    "of one rank-deficient space": (200, 180, 24),
    "n < d": (20, 24, 64),
    "constant": (40, 50, 8),
    "one is constant": (40, 50, 8),
    "repeated": (80, 96, 12),
}


@pytest.fixture(params=CASES)
def sets(request, torch_fidelity):
    import torch

    torch.set_num_threads(1)  # its threads and XLA's would wait for each other
    n, m, d = CASES[request.param]
    pair = made(request.param, n, d, 1), made(request.param, m, d, 2)
    return *pair, *map(torch.from_numpy, pair)


def test_fid(sets):
    from torch_fidelity import metric_fid as theirs

    a, b, *tensors = sets
    stats = map(theirs.fid_features_to_statistics, tensors)
    wanted = theirs.fid_statistics_to_metric(*stats, verbose=False)
    of_a, of_b = moments(a), moments(b)
    found = frechet_distance(of_a.mean, covariance(of_a), of_b.mean, covariance(of_b))
    (wanted,) = wanted.values()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_kid(sets):
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b, *tensors = sets
    size = len(a) // 2
    options = {"kid_subset_size": size, "kid_subsets": 7, "verbose": False}
    wanted = kid_features_to_metric(*tensors, **options, rng_seed=3)
    found = kernel_distance_subsets(a, b, subsets=7, size=size, seed=3)
    np.testing.assert_allclose(found, list(wanted.values()), rtol=1e-6, atol=1e-12)


def test_precision_and_recall(sets):
    from torch_fidelity.metric_prc import prc_features_to_metric

    a, b, *tensors = sets
    wanted = prc_features_to_metric(*tensors, verbose=False)
    np.testing.assert_allclose(
        precision_recall(a, b), (wanted["precision"], wanted["recall"]), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0, 1, 30])
@pytest.mark.parametrize(("n", "splits"), [(100, 10), (103, 10), (7, 7), (50, 1)])
def test_inception_score(torch_fidelity, scale, n, splits):
    import torch
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = scale * np.random.default_rng(n).normal(size=(n, 12))
    for seed in (None, 2020):
        wanted = isc_features_to_metric(
            torch.from_numpy(logits), splits, seed is not None, seed
        )
        found = inception_score(logits, splits=splits, seed=seed)
        np.testing.assert_allclose(found, list(wanted.values()), rtol=1e-6, atol=1e-12)

"""What every metric must be, for distributions of which it is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation import moments as moments_module
from ddpm_jax.evaluation.frechet import (
    frechet_distance,
    frechet_error,
    frechet_infinity,
)
from ddpm_jax.evaluation.inception_score import chunked, inception_score
from ddpm_jax.evaluation.kernel import kernel_distance, kernel_distance_subsets
from ddpm_jax.evaluation.moments import (
    Moments,
    covariance,
    empty,
    merge,
    moments,
    moments_of,
)
from ddpm_jax.evaluation.neighbours import (
    density_coverage,
    distances,
    memorisation,
    nearest_distances,
    precision_recall,
)
from ddpm_jax.evaluation.sliced import mind, sliced_wasserstein


def rng(seed=0):
    return np.random.default_rng(seed)


def fid(a, b):
    of_a, of_b = moments(a), moments(b)
    return frechet_distance(of_a.mean, covariance(of_a), of_b.mean, covariance(of_b))


def random_cov(dimension, seed, rank=None):
    half = rng(seed).normal(size=(dimension, rank or dimension))
    return half @ half.T


def whitened(n, d, seed):
    """Rows of exactly mean 0 and covariance I."""
    x = rng(seed).normal(size=(n, d))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T


def test_moments_are_those_of_gaussians():
    cov, mean = random_cov(7, 1), np.arange(7.0)
    x = whitened(500, 7, 2) @ np.linalg.cholesky(cov).T + mean
    found = moments(x)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(covariance(found), cov, rtol=1e-10, atol=1e-12)


def test_far_from_0_no_digit_of_the_covariance_is_lost():
    x = rng().normal(size=(3000, 3))
    found = covariance(moments(x + 1e6))
    np.testing.assert_allclose(found, np.cov(x.T), rtol=1e-8, atol=1e-9)


def test_sets_are_joined_in_any_order_and_with_none():
    x = rng().normal(size=(90, 4)) + np.arange(90)[:, None]
    parts = [moments(x[:20]), moments(x[20:21]), empty(4), moments(x[21:])]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 1, 3, 0]):
        whole = parts[order[0]]
        for i in order[1:]:
            whole = merge(whole, parts[i])
        assert whole.count == 90
        np.testing.assert_allclose(covariance(whole), np.cov(x.T), rtol=1e-12)
    assert merge(empty(4), empty(4)).count == 0


def test_no_more_rows_than_a_block_become_float64():
    """A hundred thousand images stay where they are."""
    largest = 0

    class Watched(np.ndarray):
        def astype(self, *args, **more):
            nonlocal largest
            largest = max(largest, len(self))
            return np.asarray(self).astype(*args, **more)

    x = np.zeros((20_000, 2), np.float32).view(Watched)
    original, moments_module.as_rows = moments_module.as_rows, lambda x, least: x
    try:
        assert moments_of([x]).count == 20_000
    finally:
        moments_module.as_rows = original
    assert 0 < largest <= 1024


@pytest.mark.parametrize("dimension", [1, 5, 40])
def test_frechet_of_gaussians_that_commute(dimension):
    """Of one basis: the sum of (sqrt l1 - sqrt l2)^2."""
    basis, _ = np.linalg.qr(rng(3).normal(size=(dimension, dimension)))
    l1, l2 = rng(4).uniform(0, 5, (2, dimension))
    mean = rng(5).normal(size=dimension)
    found = frechet_distance(mean, basis * l1 @ basis.T, 0 * mean, basis * l2 @ basis.T)
    wanted = mean @ mean + ((np.sqrt(l1) - np.sqrt(l2)) ** 2).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_frechet_of_two_by_two_that_do_not():
    """tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for 2 x 2."""
    a, b = np.array([[3, 1], [1, 2.0]]), np.array([[1, -0.5], [-0.5, 4.0]])
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(a + b) - 2 * root
    found = frechet_distance([0, 0], a, [0, 0], b)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance([0, 0], b, [0, 0], a), wanted)


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_frechet_is_exact_for_any_rank(rank):
    """Gaussians on subspaces at right angles, on the same one, and on a point."""
    d, zero = 60, np.zeros(60)
    basis, _ = np.linalg.qr(rng(6).normal(size=(d, d)))
    one, other = basis[:, :rank], basis[:, rank : 2 * rank]
    a = one @ random_cov(rank, 7) @ one.T
    b = other @ random_cov(rank, 8) @ other.T
    apart = np.trace(a) + np.trace(b)
    np.testing.assert_allclose(frechet_distance(zero, a, zero, b), apart, rtol=1e-12)
    within = frechet_distance(zero, a, zero, 4 * a)
    np.testing.assert_allclose(within, np.trace(a), rtol=1e-12)
    point = frechet_distance(zero, a, zero, 0 * a)
    np.testing.assert_allclose(point, np.trace(a), rtol=1e-12)
    assert frechet_distance(zero, a, zero, a) < 1e-12 * np.trace(a)


def test_frechet_of_constant_features_is_the_shift_alone():
    a, b = np.full((30, 8), 0.1, np.float32), np.full((20, 8), 0.3, np.float32)
    np.testing.assert_allclose(fid(a, b), 8 * (0.2) ** 2, rtol=1e-6)
    assert fid(a, a) == 0


def test_frechet_scales_as_a_square_and_turns_with_its_features():
    a, b = rng(1).normal(size=(50, 9)), 1 + 2 * rng(2).normal(size=(70, 9))
    turn, _ = np.linalg.qr(rng(3).normal(size=(9, 9)))
    np.testing.assert_allclose(fid(3 * a, 3 * b), 9 * fid(a, b), rtol=1e-10)
    np.testing.assert_allclose(fid(a @ turn + 5, b @ turn + 5), fid(a, b), rtol=1e-10)


@pytest.mark.parametrize("shift", [0, 0.1])
def test_fid_at_infinity_is_freed_of_its_bias(shift):
    """Samples of a known Gaussian, where FID of so few says much more."""
    d, n = 24, 1500
    cov, mean = random_cov(d, 1) / d, np.zeros(d)
    half, true = np.linalg.cholesky(cov), d * shift**2
    values, errors, biased, plain = [], [], [], []
    for seed in range(16):
        x = rng(100 + seed).normal(size=(n, d)) @ half.T + shift
        found = frechet_infinity(x, mean, cov, seed=seed)
        values.append(found.value)
        errors.append(found.error)
        part = moments(x)
        biased.append(frechet_distance(part.mean, covariance(part), mean, cov))
        plain.append(frechet_error(x, mean, cov))
    assert np.mean(biased) > true + 0.02
    assert abs(np.mean(values) - true) < 0.2 * (np.mean(biased) - true) + 0.003
    # The errors are of the size of what the values scatter by.
    assert 0.7 < np.mean(errors) / np.std(values) < 2
    assert 0.7 < np.mean(plain) / np.std(biased) < 2.5
    assert np.mean(plain) < np.mean(errors)


def test_the_error_of_fid_in_one_dimension():
    """FID is (m - m2)^2 + (s - s2)^2; var m = s^2 / n, var s = s^2 / 2n."""
    n, s = 200_000, 3.0
    x = 2 + s * rng().normal(size=(n, 1))
    slope = 2 * (2 - 0.5), 2 * (s - 1)
    wanted = np.sqrt((slope[0] ** 2 * s**2 + slope[1] ** 2 * s**2 / 2) / n)
    found = frechet_error(x, [0.5], [[1.0]])
    np.testing.assert_allclose(found, wanted, rtol=0.01)
    point = frechet_error(x, [0.5], [[0.0]])  # of a constant: (m - m2)^2 + s^2
    wanted = np.sqrt((slope[0] ** 2 * s**2 + 4 * s**4 / 2) / n)
    np.testing.assert_allclose(point, wanted, rtol=0.01)
    assert frechet_infinity(x[:500], [0.5], [[0.0]]).value == pytest.approx(11.25, 0.1)


def test_fid_at_infinity_follows_a_line():
    """Where the distance of n samples is a + b/n the fit finds a, and no error."""
    from ddpm_jax.evaluation.frechet import _intercept

    x = 1 / np.arange(50, 200, 10)
    value, error = _intercept(x, 3 + 7 * x)
    np.testing.assert_allclose(value, 3, rtol=1e-12)
    assert error < 1e-12
    # The standard error of an intercept, by the covariance of least squares.
    y = 3 + 7 * x + rng().normal(size=len(x))
    design = np.stack([np.ones_like(x), x], 1)
    fit, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = residual[0] / (len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    np.testing.assert_allclose(_intercept(x, y), (fit[0], variance**0.5), rtol=1e-8)


def test_inception_score_of_certain_and_of_unknowing_classifiers():
    """Certain and even over k classes: k; of one class, or unknowing: 1."""
    certain = 1e4 * np.eye(5)[np.arange(100) % 5]  # probabilities of 0 to float64
    np.testing.assert_allclose(inception_score(certain), (5, 0), rtol=1e-12)
    np.testing.assert_allclose(chunked(certain, 50), 5, rtol=1e-12)
    for none in (np.zeros((100, 5)), certain[:1].repeat(100, 0)):
        np.testing.assert_allclose(inception_score(none), (1, 0), atol=1e-12)
    shifted = certain + rng().normal(size=(100, 1))  # logits know no constant
    np.testing.assert_allclose(inception_score(shifted).mean, 5, rtol=1e-9)


def test_kid_is_unbiased():
    """Its mean over draws of one distribution is 0, on either side of it."""
    draws = rng().normal(size=(400, 2, 12, 3))
    values = np.array([kernel_distance(a, b) for a, b in draws])
    error = values.std() / 20
    assert abs(values.mean()) < 4 * error
    assert (values < 0).mean() > 0.3
    biased = [kernel_distance(a, a) for a, _ in draws]
    assert np.mean(biased) < -10 * error  # of a set with itself there is no law of 0


def test_kid_of_gaussians_is_that_of_their_moments():
    """In one dimension E (x y + 1)^3 is a sum over the moments of x and y."""
    a, b = rng(1).normal(0.5, 1, (4000, 1)), rng(2).normal(0, 2, (3000, 1))

    def raw(mean, std):  # moments 1..3 of a Gaussian
        return np.array([mean, mean**2 + std**2, mean**3 + 3 * mean * std**2])

    apart = raw(0.5, 1) - raw(0, 2)
    wanted = [3, 3, 1] @ apart**2
    np.testing.assert_allclose(kernel_distance(a, b), wanted, rtol=0.15)


def test_kid_by_hand_of_sets_of_different_sizes():
    a, b = rng(1).normal(size=(5, 3)), rng(2).normal(size=(7, 3))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    def mean(x, y):
        return np.mean([k(p, q) for p in x for q in y if p is not q])

    x, y = list(a), list(b)
    wanted = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    np.testing.assert_allclose(kernel_distance(a, b), wanted, rtol=1e-12)


def test_kid_over_subsets_is_near_that_of_all():
    a, b = rng(1).normal(size=(300, 4)), rng(2).normal(0.3, 1, (260, 4))
    found = kernel_distance_subsets(a, b, subsets=40, size=100)
    assert abs(found.mean - kernel_distance(a, b)) < 4 * found.std / 40**0.5 + 0.01
    assert found.std > 0
    again = kernel_distance_subsets(a, b, subsets=40, size=100, seed=1)
    assert again != found


def modes(n, centres, seed, d=3, spread=0.3):
    """A mixture of as many even modes."""
    places = 4 * np.eye(d)[np.arange(n) % centres]
    return places + spread * rng(seed).normal(size=(n, d))


def test_a_missing_mode_lowers_recall_and_coverage_and_not_precision():
    real, whole, missing = modes(600, 3, 0), modes(600, 3, 1), modes(600, 2, 2)
    full, less = (precision_recall(x, real) for x in (whole, missing))
    assert full.precision > 0.9 and full.recall > 0.9
    assert abs(less.precision - full.precision) < 0.05 and less.recall < 0.72
    covered, fewer = (density_coverage(x, real) for x in (whole, missing))
    assert covered.coverage > 0.9 and abs(covered.density - 1) < 0.1
    assert fewer.coverage < 0.72 and abs(fewer.density - 1) < 0.1


def test_a_mode_too_many_lowers_precision_and_density_and_not_recall():
    real, more = modes(600, 2, 0), modes(900, 3, 1)
    found = precision_recall(more, real)
    assert found.precision < 0.72 and found.recall > 0.9
    dense = density_coverage(more, real)
    assert dense.density < 0.75 and dense.coverage > 0.9


def test_coverage_of_equal_distributions():
    """1 - the chance that none of n is among k + n nearest: Naeem et al., Lemma 2."""
    n, m, k = 300, 400, 5
    chance = np.prod([(m - i) / (n + m - 1 - i) for i in range(k)])
    values = [
        density_coverage(rng(i).normal(size=(n, 4)), rng(99 - i).normal(size=(m, 4)))
        for i in range(12)
    ]
    np.testing.assert_allclose(np.mean([x.coverage for x in values]), 1 - chance, 0.01)
    np.testing.assert_allclose(np.mean([x.density for x in values]), 1, rtol=0.05)


@pytest.mark.parametrize("copies", [False, True])
def test_neighbours_by_hand(copies, monkeypatch):
    """Every pair, one by one, over many blocks; with copies among the images."""
    monkeypatch.setattr("ddpm_jax.evaluation.neighbours._MOST", 200)
    a, b = rng(1).normal(size=(40, 3)), rng(2).normal(0.5, 1, (31, 3))
    if copies:
        a[7:12], b[3:9], b[20] = a[7], b[3], a[7]

    def far(x, y):
        return np.array([[np.linalg.norm(p - q) for q in y] for p in x])

    def radii(x, k):
        others = far(x, x)
        np.fill_diagonal(others, np.inf)
        return np.sort(others, axis=1)[:, k - 1]

    between = far(a, b)
    np.testing.assert_allclose(distances(a, b), between, atol=1e-7)
    np.testing.assert_allclose(nearest_distances(a, b), between.min(1), atol=1e-7)
    second = np.sort(between, axis=1)[:, 1]
    np.testing.assert_allclose(nearest_distances(a, b, rank=1), second, atol=1e-7)
    for k in (1, 3):
        precision = (between <= radii(b, k)).any(1).mean()
        recall = (between.T <= radii(a, k)).any(1).mean()
        found = precision_recall(a, b, neighbours=k)
        np.testing.assert_allclose(found, (precision, recall), rtol=1e-12)
        within = between <= radii(b, k)
        wanted = within.sum() / (k * len(a)), within.any(0).mean()
        found = density_coverage(a, b, neighbours=k)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_copies_lie_at_no_distance_even_far_from_0():
    a = rng().normal(size=(50, 20)) + 1e4
    assert nearest_distances(a, np.concatenate([a, a + 1])).max() == 0
    constant = np.full((9, 5), 0.1)
    assert precision_recall(constant, constant) == (1, 1)
    assert density_coverage(constant, constant).coverage == 1


def test_memorisation_is_of_copies_0_and_of_unseen_images_1():
    train, unseen = rng(1).normal(size=(300, 5)), rng(2).normal(size=(200, 5))
    assert memorisation(train[:40], train, unseen) == 0
    assert 0.9 < memorisation(rng(3).normal(size=(200, 5)), train, unseen) < 1.1
    near = train[:100] + 0.01 * rng(4).normal(size=(100, 5))
    assert memorisation(near, train, unseen) < 0.1
    assert memorisation(3 * unseen, train, unseen) > 1.5
    # Without unseen images the training set is its own yardstick.
    between = distances(train, train)
    np.fill_diagonal(between, np.inf)
    wanted = np.median(nearest_distances(unseen, train)) / np.median(between.min(1))
    np.testing.assert_allclose(memorisation(unseen, train), wanted, rtol=1e-9)


def test_mind_of_shifted_and_of_scaled_gaussians():
    """A shift v: 3 |v|^2; a scale s of N(0, I): 3 d (s - 1)^2."""
    d, n = 12, 2000
    x, shift = whitened(n, d, 1), rng(2).normal(size=d)
    size = 3 * shift @ shift
    np.testing.assert_allclose(mind(x, x + shift, directions=4000), size, rtol=0.06)
    other = rng(3).normal(size=(n, d)) + shift
    np.testing.assert_allclose(mind(x, other), size, rtol=0.15)
    scaled = mind(x, 3 * x) * n / (n - 1)
    np.testing.assert_allclose(scaled, 3 * d * 4, rtol=1e-9)
    np.testing.assert_allclose(mind(x[:, :1], x[:, :1] + 0.7), 3 * 0.49, rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (5, 7), (12, 4), (3, 2)])
def test_the_quantile_functions_are_integrated_exactly(n, m):
    """As of sets of one size, in which every image is repeated."""
    a, b = rng(1).normal(size=(n, 5)), rng(2).normal(size=(m, 5))
    found = sliced_wasserstein(a, b, directions=64)
    wanted = sliced_wasserstein(a.repeat(m, 0), b.repeat(n, 0), directions=64)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    one = sliced_wasserstein(a[:, :1], b[:, :1], directions=1)
    apart = np.sort(a[:, 0].repeat(m)) - np.sort(b[:, 0].repeat(n))
    np.testing.assert_allclose(one, (apart**2).mean(), rtol=1e-12)


def test_mind_takes_its_directions_from_the_seed():
    a, b = rng(1).normal(size=(50, 6)), rng(2).normal(1, 1, (50, 6))
    few = [mind(a, b, directions=8, seed=seed) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    many = [mind(a, b, directions=300, seed=seed) for seed in (0, 1)]
    assert abs(many[0] - many[1]) < abs(few[0] - few[2])


DISTANCES = {
    "fid": fid,
    "mind": mind,
    "kid": kernel_distance,
    "precision": lambda a, b: precision_recall(a, b).precision,
    "recall": lambda a, b: precision_recall(a, b).recall,
    "density": lambda a, b: density_coverage(a, b).density,
    "coverage": lambda a, b: density_coverage(a, b).coverage,
    "memorisation": lambda a, b: memorisation(a, b),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_the_order_of_images_changes_nothing(name):
    measure = DISTANCES[name]
    a, b = rng(1).normal(size=(80, 5)), rng(2).normal(0.3, 1, (90, 5))
    found = measure(rng(3).permutation(a), rng(4).permutation(b))
    np.testing.assert_allclose(found, measure(a, b), rtol=1e-9)


@pytest.mark.parametrize("name", ["fid", "mind"])
def test_identical_sets_are_at_no_distance(name):
    x = rng().normal(size=(60, 7)).astype(np.float32)
    assert 0 <= DISTANCES[name](x, x) < 1e-12
    assert DISTANCES[name](x, x + 1) > 1


@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_shares_know_no_scale(name):
    a, b = rng(1).normal(size=(80, 5)), rng(2).normal(0.3, 1, (90, 5))
    found = DISTANCES[name](100 * a + 7, 100 * b + 7)
    np.testing.assert_allclose(found, DISTANCES[name](a, b), rtol=1e-12)


def test_features_of_jax_and_of_16_bits_are_taken():
    a, b = rng(1).normal(size=(80, 5)), rng(2).normal(0.3, 1, (90, 5))
    for dtype in (jnp.float32, jnp.bfloat16):
        x, y = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
        wide = np.asarray(x.astype(jnp.float32)), np.asarray(y.astype(jnp.float32))
        for measure in DISTANCES.values():
            np.testing.assert_allclose(measure(x, y), measure(*wide), rtol=1e-5)


BAD = {
    "at least 2 images; got 1": np.zeros((1, 5)),
    r"must have the shape \(images, d\); got \(5,\)": np.zeros(5),
    r"got \(4, 5, 1\)": np.zeros((4, 5, 1)),
    "must be finite": np.full((4, 5), np.nan),
    "they hold NaN or infinity": np.full((4, 5), np.inf),
    "features of one network; got the dimensions": np.zeros((4, 6)),
    "must be real numbers; got complex128": np.zeros((4, 5), complex),
    "must be real numbers; got object": np.full((4, 5), None),
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("line", BAD)
def test_what_is_no_set_of_features_is_refused_in_one_line(name, line):
    good = rng().normal(size=(9, 5))
    for pair in ((BAD[line], good), (good, BAD[line])):
        with pytest.raises(ValueError, match=line) as caught:
            DISTANCES[name](*pair)
        assert "\n" not in str(caught.value)


def test_what_else_cannot_be_measured_is_refused_in_one_line():
    few, many = rng().normal(size=(3, 5)), rng().normal(size=(40, 5))
    eye, zero = np.eye(5), np.zeros(5)
    cases = [
        (lambda: precision_recall(few, many), r"neighbours must be in 1\.\.2"),
        (lambda: density_coverage(many, few), r"neighbours must be in 1\.\.2"),
        (lambda: kernel_distance_subsets(few, many), r"2\.\.3 images.*got 1000"),
        (lambda: inception_score(few), r"splits must be in 1\.\.3"),
        (lambda: inception_score(few[:1], splits=1), "logits must be of at least 2"),
        (lambda: frechet_infinity(few, zero, eye), "at least 30 samples; got 3"),
        (lambda: frechet_infinity(many, zero, eye, points=2), "points must be at"),
        (lambda: frechet_infinity(many, np.zeros(4), np.eye(4)), "dimensions 5 and 4"),
        (lambda: frechet_distance(zero, eye, zero, eye * np.nan), "must be finite"),
        (lambda: frechet_distance(zero, eye + np.tri(5), zero, eye), "symmetric"),
        (lambda: frechet_distance(zero, eye[:4], zero, eye), "shapes"),
        (lambda: frechet_distance(zero[:0], eye[:0, :0], zero, eye), "shapes"),
        (lambda: frechet_distance(zero, eye, np.zeros(4), np.eye(4)), "dimensions"),
        (lambda: covariance(moments(few[:1])), "at least 2 images; got 1"),
        (lambda: moments_of([]), "at least 1 image; got 0"),
        (lambda: moments_of([few, few[:, :4]]), "dimensions 5 and 4"),
        (lambda: merge(moments(few), empty(4)), "dimensions 5 and 4"),
        (lambda: nearest_distances(many, few, rank=3), r"rank must be in 0\.\.2"),
        (lambda: memorisation(many, few, few), "half of them are copies"),
        (lambda: mind(few, many, directions=0), "directions must be at least 1"),
    ]
    for measure, line in cases:
        with pytest.raises(ValueError, match=line) as caught:
            measure()
        assert "\n" not in str(caught.value)


def test_moments_are_a_value_with_names():
    value = Moments(2, np.zeros(1), np.eye(1))
    assert (value.count, value.mean[0], value.scatter[0, 0]) == (2, 0, 1)

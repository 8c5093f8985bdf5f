"""The self-test passes, and sees what is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.evaluation import self_test
from ddpm_jax.evaluation.frechet import Extrapolation
from ddpm_jax.evaluation.inception_score import InceptionScore


def test_every_metric_gives_the_known_value():
    checks = self_test.self_test()
    assert len(checks) > 12
    assert all(check.ok for check in checks), [x for x in checks if not x.ok]
    assert not self_test.Check("", np.nan, 0, 1).ok
    self_test.check_compiler()


# What each metric would be without its subtlety.
WRONG = {
    "frechet_distance": lambda *gaussians: 1.0,
    "frechet_infinity": lambda x, mean, cov: Extrapolation(0.05, 0),
    "mind": lambda a, b: 0.25,
    "kernel_distance": lambda a, b: 7.1,
    "inception_score": lambda logits: InceptionScore(9.9, 0),
    "covariance": lambda moments: moments.scatter / moments.count,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_metric_is_seen(name, monkeypatch):
    monkeypatch.setattr(self_test, name, WRONG[name])
    assert not all(check.ok for check in self_test.self_test())


def test_a_compiler_that_sums_wrongly_is_refused_by_name(monkeypatch):
    """As jaxlib 0.10.2: of the rows from the 32,769th on it takes other ones."""
    right = jnp.sum

    def sum_of_another(x):
        return right(jnp.where(right(x) >= 2.0**30, x * (32640 / 32768) ** 2, x))

    monkeypatch.setattr(self_test.jnp, "sum", sum_of_another)
    with pytest.raises(ImportError, match=r"^jaxlib [0-9.]+ computes wrongly on cpu"):
        self_test.check_compiler()
    assert [x.ok for x in self_test.self_test()].count(False) == 1

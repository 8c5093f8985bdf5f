"""Two real processes, each with a part of the features: the moments of all, in both."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.evaluation.moments import covariance, moments, pooled

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
from ddpm_jax.evaluation.moments import empty, moments, pooled
from ddpm_jax.processes import Distributed, start

port, process, out = sys.argv[1:]
start(Distributed(
    coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=int(process)
))
x = np.load(out + "/features.npy")
parts = x[:1000] if process == "0" else x[1000:]
own = moments(x) if process == "0" else empty(x.shape[1])
arrays = {}
for name, part in {"shared": moments(parts), "one": own}.items():
    found = pooled(part)
    arrays |= {f"{name}_{key}": value for key, value in found._asdict().items()}
np.savez(f"{out}/{process}.npz", **arrays)
"""


def test_alone_nothing_is_gathered():
    own = moments(np.eye(3))
    assert pooled(own) is own


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("pooled")
    x = np.random.default_rng(0).normal(size=(1400, 1100)) + 1000  # above a block
    np.save(out / "features.npy", x)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(i), str(out)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    return x, [dict(np.load(out / f"{i}.npz")) for i in range(2)]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["shared", "one"])
def test_both_have_the_moments_of_all_to_float64(found, name):
    x, (a, b) = found
    whole = moments(x)
    assert a[f"{name}_count"] == 1400
    np.testing.assert_allclose(a[f"{name}_mean"], whole.mean, rtol=1e-14)
    np.testing.assert_allclose(a[f"{name}_scatter"], whole.scatter, rtol=0, atol=1e-8)
    np.testing.assert_allclose(covariance(whole), np.cov(x.T), rtol=0, atol=1e-12)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])

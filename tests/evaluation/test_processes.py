"""Two real processes: each runs half of the batches, and both have all features."""

import hashlib
import os
import pathlib
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import jax.numpy as jnp
import numpy as np
import pytest
from ddpm_jax.evaluation import weights
from ddpm_jax.evaluation.features import FeatureNetwork, collect, extract
from ddpm_jax.processes import Distributed, start

port, process, out, url, sha = sys.argv[1:]
start(Distributed(
    coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=int(process)
))
found = weights.find(weights.Published("net.pth", url, sha))
images = np.load(out + "/images.npy")
network = FeatureNetwork.from_function(
    "own", lambda x: jnp.tanh(x.astype(jnp.float32) / 255).mean((1, 2))
)
parts = [np.split(images, [3, 4, 4, 40, 41]), images, images[:3]]
features = [collect(extract(network, x, batch_size=8))["features"] for x in parts]
np.savez(f"{out}/{process}.npz", *features, checksum=found.checksum)
"""


def features(images):
    return jnp.tanh(images.astype(jnp.float32) / 255).mean((1, 2))


@pytest.mark.processes
def test_two_processes_have_the_features_of_one(tmp_path, server):
    images = np.random.default_rng(0).integers(0, 256, (53, 5, 5, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    sha = hashlib.sha256(server.answer[2]).hexdigest()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "DDPM_JAX_CACHE": str(tmp_path / "cache"),
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-c", PROGRAM, str(port)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path), server.url, sha],
            cwd=ROOT,
            env=environment,
            **options,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    assert server.count == 1  # the second process finds what the first has got
    for i in range(2):
        with np.load(tmp_path / f"{i}.npz") as found:
            assert found["checksum"] == sha
            for name, n in (("arr_0", 53), ("arr_1", 53), ("arr_2", 3)):
                assert found[name].shape == (n, 3)
                np.testing.assert_allclose(found[name], features(images[:n]), rtol=1e-5)

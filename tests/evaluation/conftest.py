"""The FID Inception with weights made by a rule, torch-fidelity, a server of files."""

import http.server
import importlib.util
import math
import pathlib
import sys
import threading
import types
import zlib

import numpy as np
import pytest

from ddpm_jax.evaluation import inception

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def inception_weights(lines):
    """The state dict of `tests/golden/evaluation_inception.npz`, from its names."""
    made = {}
    for line in lines.tolist():
        key, _, shape = line.partition(" ")
        if not shape:  # num_batches_tracked
            made[key] = np.zeros((), np.int64)
            continue
        shape = tuple(map(int, shape.split(",")))
        seed = zlib.crc32(key.encode()) & 0x7FFFFFFF
        z = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
        if key.endswith("running_var"):
            made[key] = 0.5 + np.abs(z)
        elif key.endswith("bn.weight"):
            made[key] = 1 + np.float32(0.1) * z
        elif len(shape) == 1:
            made[key] = np.float32(0.1) * z
        else:
            made[key] = z * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return made


@pytest.fixture(scope="session")
def golden():
    """Arrays by name; images are NHWC."""
    with np.load(GOLDEN / "evaluation_inception.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def made_weights(golden):
    """The state dict, as pytorch-fid's file has it."""
    return inception_weights(golden["shapes"])


@pytest.fixture(scope="session")
def made_inception(made_weights):
    """The network of these weights, as OpenAI's evaluator has it."""
    return inception.network(made_weights)


@pytest.fixture(scope="session")
def torch_fidelity():
    """The library. Of torchvision it takes names of what no test here calls."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # absent, or not of this PyTorch
        _stand_in_for_torchvision()
    import torch_fidelity

    return torch_fidelity


def _stand_in_for_torchvision():
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    names = ("", ".datasets", ".transforms", ".transforms.functional")
    for name in names:
        module = types.ModuleType(f"torchvision{name}")
        sys.modules[module.__name__] = module
        parent, _, last = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    for name in ("CIFAR10", "STL10", "CIFAR100"):
        setattr(sys.modules["torchvision.datasets"], name, type(name, (), {}))


@pytest.fixture
def server():
    """`answer`: status, headers and body; `url`: where; `count`: how often it has."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answer = (200, {}, b"the weights" * 1000)
        count = 0

        def do_GET(self):
            type(self).count += 1
            status, headers, body = self.answer
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        Handler.url = f"http://127.0.0.1:{running.server_port}/net.pth"
        yield Handler
        running.shutdown()
        thread.join()

"""How tests run: eight virtual devices, quickly compiled, no silent broadcasts."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import resource

# Nearly all programs of a test run once: compile in a third of the time, run a bit
# slower. The processes that a test starts do so too, and all share what is compiled.
FLAGS = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # later ones have no other
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
for name, value in {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join(FLAGS),
    "JAX_COMPILATION_CACHE_DIR": os.path.join(ROOT, ".pytest_cache", "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "MALLOC_MMAP_THRESHOLD_": "1000000",  # to glibc: what is freed is given back
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # a program of the cache is loaded with a line of 3 kB
}.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
    """Tracing makes many objects: look through those of the imports no more."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


STATM = pathlib.Path("/proc/self/statm")  # of Linux


@pytest.fixture(autouse=True, scope="module")
def programs_are_freed():
    """Or a worker would come to hold gigabytes of them, which few modules share."""
    yield
    pages = int(STATM.read_text().split()[1]) if STATM.exists() else 0
    if pages * resource.getpagesize() > 700e6:
        jax.clear_caches()
        gc.collect()
        if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc keeps what is freed
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The workdir of a run of two updates, both saved; it is only read."""
    from toy import small_config  # here: of no use to the process that only collects

    from ddpm_jax.training import loop

    workdir = tmp_path_factory.mktemp("small")
    loop.run(small_config(checkpoint_every=1), workdir)
    return workdir

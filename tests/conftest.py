"""How tests run: eight virtual devices, quickly compiled, no silent broadcasts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all programs of a test run once: compile in half the time, run a bit slower.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", os.path.join(ROOT, ".pytest_cache", "jax")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

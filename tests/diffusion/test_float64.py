"""The golden numbers again, to 1e-8, in a process where float64 is enabled."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.processes
def test_the_golden_numbers_hold_in_float64():
    files = [HERE / "test_core_golden.py", HERE / "test_samplers_golden.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, "-p", "no:cacheprovider"],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]

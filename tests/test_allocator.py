"""Freed memory stays with the process, so that no page of it is made twice."""

import platform
import resource
import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
from ddpm_jax.allocator import keep_freed_memory
import resource
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**25)
before = faults()
np.ones(2**25)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_used_again_has_no_page_faults():
    def faults(how, **environ):
        done = subprocess.run(
            [sys.executable, "-c", CODE, how], env=environ, capture_output=True
        )
        return int(done.stdout)

    pages = 2**28 // resource.getpagesize()
    assert faults("given back") > pages // 600  # also where pages are of 2 MiB
    assert faults("kept") < pages // 1000
    # Who has set it decides.
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > pages // 600

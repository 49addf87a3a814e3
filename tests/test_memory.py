"""Memory that is freed stays in the process."""

import subprocess
import sys

import pytest

BLOCKS = """
import ctypes, resource
from has8.memory import keep_pages
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def block():
    before = faults()
    pointer = libc.malloc(50 << 20)
    ctypes.memset(pointer, 0, 50 << 20)
    libc.free(pointer)
    return faults() - before
block()
print(block(), keep_pages(), block(), block())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_large_block_that_is_freed_is_taken_again_without_new_pages():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True
    )
    usual, known, _, kept = done.stdout.split()
    if known == "False":
        pytest.skip("this C library has no such options")
    assert int(usual) > 10 * max(1, int(kept))

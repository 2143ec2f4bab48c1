"""Memory that is freed and asked for again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from irverify.allocator import expect_large_blocks, keep_freed_memory
size = int(sys.argv[2])
if sys.argv[1] == "expected":
    expect_large_blocks()
if sys.argv[1] == "kept":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
for _ in range(10):
    blocks = [ctypes.c_void_p(library.malloc(size)) for _ in range(int(sys.argv[3]))]
    for block in blocks:
        library.memset(block, 1, size)
    for block in blocks:
        library.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str, size: int = 2**26, count: int = 1, **variables: str) -> int:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", FAULTS, how, str(size), str(count)]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the allocator of glibc")
def test_pages_of_large_blocks_are_mapped_once() -> None:
    assert 2 * faults("kept") < faults("usual")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the allocator of glibc")
def test_blocks_of_some_megabytes_stay_once_a_large_one_was_freed() -> None:
    assert 2 * faults("expected", 2**22, 12) < faults("usual", 2**22, 12)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the allocator of glibc")
def test_the_environment_has_the_last_word() -> None:
    assert faults("kept", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0") > 2 * faults("kept")

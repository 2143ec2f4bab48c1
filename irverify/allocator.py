"""The C library's allocator, told to keep large blocks.

Bounds are computed in temporaries of some ten to a hundred megabytes. By default glibc asks the system for each such
block and gives it back at once, and every page of it has to be cleared and mapped again the next time.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""The parameters of `mallopt` (malloc.h)."""
KEPT = 2**30
"""Up to so many bytes."""


LEARNT = 2**25 - 2**13
"""About the largest block that glibc learns from."""


@functools.cache
def expect_large_blocks() -> None:
    """Freed blocks of up to 32 MiB stay with this process from now on, up to 64 MiB of them at the end of its memory;
    nothing where there is no glibc, or where the environment sets the allocator: glibc minds that itself.

    It decides what it gives back by the largest block that was freed so far. This one is never touched, so that it
    costs nothing; work in temporaries of some megabytes takes up to a third less time after it.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        library = ctypes.CDLL(None)
        malloc, free = library.malloc, library.free
    except (OSError, AttributeError):
        return
    malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    free(malloc(LEARNT))


def keep_freed_memory() -> None:
    """Blocks that are freed stay with this process, to be used again; nothing where there is no glibc, or where the
    environment sets the allocator."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(TRIM_THRESHOLD, KEPT)
    mallopt(MMAP_THRESHOLD, KEPT)

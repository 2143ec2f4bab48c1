"""The C library's allocator, told to keep large blocks.

Bounds are computed in temporaries of some ten to a hundred megabytes. By default glibc asks the system for each such
block and gives it back at once, and every page of it has to be cleared and mapped again the next time.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""The parameters of `mallopt` (malloc.h)."""
KEPT = 2**30
"""Up to so many bytes."""


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

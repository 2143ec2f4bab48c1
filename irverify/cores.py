"""How much of the machine there is for this process."""

from __future__ import annotations

import os
import sys


def usable_cores() -> int:
    """How many processor cores this process may use; at least 1."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

"""Solver processes that are kept for the next user: starting one takes as long as a hundred small linear programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from irverify.backends.milp.process import Pool


@dataclass
class Reserve:
    """Idle pools by process (a fork must not talk to its parent's solvers) and size; one of each size is kept."""

    _idle: dict[tuple[int, int], Pool] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def borrow(self, size: int) -> Iterator[Pool]:
        """A pool of so many workers, for the caller alone. It is kept afterwards, unless something was raised."""
        key = os.getpid(), size
        with self._guard:
            pool = self._idle.pop(key, None)
        pool = Pool(size) if pool is None else pool
        try:
            yield pool
        except BaseException:
            pool.close()
            raise
        with self._guard:
            pool = self._idle.setdefault(key, pool) if key not in self._idle else pool
            kept = self._idle[key] is pool
        if not kept:
            pool.close()


RESERVE = Reserve()
"""The one of this program. Its processes end with the program, however that ends."""


def usual_workers() -> int:
    """One for each processor that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1

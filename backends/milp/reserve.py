"""Solver processes that are kept for the next user: starting one takes as long as a hundred small linear programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from irverify.backends.milp.process import Pool

IDLE = 30.0
"""Seconds after which processes that nobody wants are ended."""


@dataclass
class Reserve:
    """Idle pools, one of each size, for up to `idle` seconds. Each process has its own: a fork must not talk to the
    solvers of its parent."""

    idle: float = IDLE
    _pools: dict[tuple[int, int], tuple[Pool, threading.Timer]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def borrow(self, size: int) -> Iterator[Pool]:
        """A pool of so many workers, for the caller alone. It is kept afterwards, unless something was raised."""
        key = os.getpid(), size
        pool = self._taken(key) or Pool(size)
        try:
            yield pool
        except BaseException:
            pool.close()
            raise
        timer = threading.Timer(self.idle, self._end, (key, pool))
        timer.daemon = True
        with self._guard:
            kept = self._pools.setdefault(key, (pool, timer))[0] is pool
        if kept:
            timer.start()
        else:
            pool.close()

    def _taken(self, key: tuple[int, int]) -> Pool | None:
        with self._guard:
            pool, timer = self._pools.pop(key, (None, None))
        if timer is not None:
            timer.cancel()
        return pool

    def _end(self, key: tuple[int, int], pool: Pool) -> None:
        """Ends a pool, unless it was borrowed at the last moment."""
        with self._guard:
            idle = key in self._pools and self._pools[key][0] is pool
            if idle:
                del self._pools[key]
        if idle:
            pool.close()


RESERVE = Reserve()
"""The one of this program. Its processes end with the program, however that ends."""

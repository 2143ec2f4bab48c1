"""Processes that work together, for tests of what several processes do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest
from torch import distributed as dist

_POSSIBLE = (
    dist.is_available() and dist.is_gloo_available() and "forkserver" in multiprocessing.get_all_start_methods()
)  # fmt: skip
together = pytest.mark.skipif(not _POSSIBLE, reason="this torch has no gloo, or this system no forkserver")
"""For tests that need several processes."""


def run_two(target: Callable[..., None], *arguments: object, seconds: float) -> None:
    """Runs `target(rank, *arguments)` in two processes, and ends them after so many seconds.

    They are copies of one that has imported what takes long, and that ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["irverify.train.cascade", "irverify.backends.torch"])
    processes = [context.Process(target=target, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
        process.kill()

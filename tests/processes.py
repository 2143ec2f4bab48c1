"""Processes that work together, for tests of what several processes do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest
from torch import distributed as dist

together = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
"""For tests that need gloo."""


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

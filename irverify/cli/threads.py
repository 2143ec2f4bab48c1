"""How many threads tensors are computed with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irverify.ir.graph import Graph

LARGE = 2**15
"""So many elements in some value are worth sharing among threads."""


def wait_quietly() -> None:
    """Lets threads that wait for one another leave the processor to others: where these need it, spinning has made a
    command ten times slower. Has to come before PyTorch is imported; what the environment says counts."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def settle_threads(graph: Graph, threads: int | None = None) -> None:
    """Uses so many threads; unless anything is said, one for a network whose values are small."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ and max(node.type.size for node in graph) < LARGE:
        torch.set_num_threads(1)

"""How many images fit: an estimate before anything runs."""

from __future__ import annotations

import torch

from irverify.ir.graph import Graph

TENSORS = 16
"""How many tensors of its size an analysis keeps for each value: bounds, lines, what is in flight."""
USUAL = 2**30
"""Bytes that a batch may take where nobody says."""
LARGEST, LARGEST_ON_GPU = 64, 1024
"""More images at once gain nothing: on a CPU they leave its caches."""


def bytes_per_image(graph: Graph) -> int:
    """An estimate of the memory that bounds of one image take at once: all values, and the rows of the specification
    over the widest of them."""
    sizes = [node.type.size * node.type.dtype.itemsize for node in graph]
    rows = sum(graph[name].type.size for name in graph.outputs)
    return TENSORS * sum(sizes) + 4 * rows * max(sizes)


def batch_size(graph: Graph, memory: int | None, device: str) -> int:
    """How many images are bounded at once in `memory` bytes (None: what is usual; on a GPU a quarter of what is free).

    At least one, whatever it takes: a batch that does not fit is halved when it fails.
    """
    on_gpu = torch.device(device).type == "cuda"
    budget = USUAL if memory is None else memory
    if memory is None and on_gpu:
        budget = torch.cuda.mem_get_info(device)[0] // 4
    return max(1, min(LARGEST_ON_GPU if on_gpu else LARGEST, budget // bytes_per_image(graph)))

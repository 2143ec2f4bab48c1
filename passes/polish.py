"""A specification's rows once more, along better lines, where the lines of `crown` are one choice among many.

Around an S-shaped function no tangent is better than another before it is known where a row ends: any rule for the
choice loses on some rows what it wins on others. Specifications have few rows beside all those in between, so that a
few steps of gradient ascent for them (as `alpha` takes many) cost little.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Sigmoid, Tanh
from irverify.passes.ascent import Schedule, ascend
from irverify.passes.backward import Context, Rows
from irverify.passes.course import Maps
from irverify.passes.freedom import Free
from irverify.passes.hills import Flat, Start, free_at
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import SpecRows
from irverify.passes.shares import Shares
from irverify.rounding import round_down

SCHEDULE = Schedule(2, 0.4)
"""On a public sigmoid network one step leaves a third of what the rule loses, two leave nothing."""
TOGETHER = 2**23
"""Bytes of coefficients over all values that are optimised at once, about: fewer are more calls, more leave caches."""


@once_a_graph
def worthwhile(graph: Graph) -> bool:
    """Whether there is an S-shaped function."""
    return any(isinstance(node.op, Sigmoid | Tanh) for node in graph)


@torch.no_grad()
def polished(context: Context, intervals: Mapping[str, Interval], target: Node, batch: int) -> Tensor:
    """Lower bounds of all elements of the vector `target`, `[batch, elements]`."""
    free: dict[str, Free | Shares] = {}
    for node in context.graph:
        if node.name in context.relaxed:
            found = free_at(node, [intervals[name] for name in node.inputs], context.relaxed[node.name])
            if found is not None:
                free[node.name] = found
    count, kind, spec = target.type.size, target.type.dtype, context.relaxed[target.name]
    assert isinstance(spec, SpecRows)
    bounds = round_down(spec.offset, kind).expand(batch, count).clone()
    identity = torch.eye(count, dtype=kind, device=bounds.device)
    start = Start(context, free, Maps(bounds.device))
    step = max(1, TOGETHER // (count * sum(node.type.size * node.type.dtype.itemsize for node in context.graph)))
    for examples in torch.arange(batch, device=bounds.device).split(step):
        owner, elements = spec.open(batch)[examples].nonzero(as_tuple=True)
        if owner.shape[0] > 0:
            rows = Rows(identity[elements], examples[owner], batch)
            bounds[examples[owner], elements] = ascend(Flat(start, target.name, rows, None), SCHEDULE).best
    return bounds

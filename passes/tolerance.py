"""What a bound must exceed to prove anything: a margin that covers the rounding of floating-point arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.passes.ibp import Ibp
from irverify.passes.outward import OutwardIbp
from irverify.pipeline import Bounds, run
from irverify.regions import Region
from irverify.regions.base import rowwise

SAFETY = 4
"""How many times the error that intervals may have made is asked for: other analyses compute more than intervals."""
UNITS = 2**19
"""What a float64 bound must exceed at least, in units in the last place of the largest magnitude of any value (about
1e-10 of it): (terms in a sum) x (layers) of these are what an analysis is wrong by at most, and this covers a million.
"""
UNITS_OF_FLOAT32 = 2**7
"""The same for float32, where a million of units would leave nothing: the typical error of a sum of 10,000 terms."""


def output_tolerance(graph: Graph, regions: Sequence[Region], operands: Mapping[str, Tensor]) -> Tensor:
    """What a lower bound of each element of a graph's one vector-valued output must exceed, `[batch, elements]`; see
    `output_tolerances`."""
    (tolerance,) = output_tolerances(graph, regions, operands)
    return tolerance


def output_tolerances(
    graph: Graph, regions: Sequence[Region], operands: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """What rounding may do to bounds of each output, `[batch, *shape]`.

    The larger of two: `SAFETY` times what intervals that are rounded outward lose against those that are not, which
    counts errors as the network amplifies them (weights that cancel), and some units in the last place of the largest
    magnitude that occurs. NaN where neither is known: it exceeds nothing. Raises UnsupportedError where the network,
    rounded outward, is undefined somewhere.
    """
    outer, plain = (run(graph, step, regions, operands=operands).bounds for step in (OutwardIbp(), Ibp()))
    magnitude = largest(outer)
    found = []
    for name in graph.outputs:
        wide, narrow = outer[name], plain[name]
        lost = torch.maximum(narrow.lower - wide.lower, wide.upper - narrow.upper).clamp(min=0)
        units = UNITS_OF_FLOAT32 if graph.coarsest == torch.float32 else UNITS
        least = units * torch.finfo(graph.coarsest).eps * magnitude.reshape(-1, *(1,) * (lost.ndim - 1))
        found.append(torch.maximum(SAFETY * lost, least.to(lost.dtype)))
    return tuple(found)


def largest(bounds: Mapping[str, Bounds]) -> Tensor:
    """The largest magnitude of any bound of each example, at least 1, `[batch]`."""
    ends = [side for entry in bounds.values() for side in (entry.lower, entry.upper)]
    return torch.stack([rowwise(end).abs().amax(1) for end in ends]).amax(0).clamp(min=1.0)

"""Where a linear lower bound is attained, and how far the network is above it there.

A backward bound is the minimum of a linear function: `c . y(x) >= A . x + b` for all x of the region (paper 2, eq. 7).
The input that minimises the right-hand side, for an l-infinity ball `x - eps sign(A)` and for an l2 ball `x - eps A /
|A|_2` (paper 2, sec. 4.2; its algorithm 1 has the sign wrong), is the relaxed adversary's choice: a good place to start
an attack from. The network's own value there is at least the minimum that is sought, the bound at most; their distance
is the gap

    d = c . y(x + delta*) - min over x' of (A . x' + b)  >=  0                              (paper 2, eq. 8)

and where it is 0 the bound is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.ir.ops import Spec
from irverify.passes.coefficients import coefficients_of
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.manager import Given
from irverify.pipeline.rows import row_state
from irverify.pipeline.state import State
from irverify.properties import Property

Points: TypeAlias = tuple[Tensor, ...]
"""For each network input, in order, `[batch, rows, *shape]`."""


def relaxed_minimizers(graph: Graph, region: Given, prop: Property, method: str = "crown") -> Points:
    """For each row of a property (all disjuncts, in order) the input at which its linear lower bound is least.

    `[batch, rows, *shape]` for each network input, inside the region as converted to the graph's element type: project
    them where the model is to be run in another one. `method` is the analysis, or the pipeline that ends in one, whose
    bounds and lines are used (see `coefficients`). Raises UnsupportedError where an operator has no linear bounds.
    """
    return minimum(row_state(graph, region, prop, method)[1], method).points


@dataclass(frozen=True, eq=False)
class Minimum:
    """The least values of the linear lower bounds of the rows of a specification, `[batch, rows]`, and the points of
    the region that attain them."""

    bound: Tensor
    points: Points


@without_autocast()
def minimum(state: State, method: str = "crown") -> Minimum:
    """The least values of the linear bounds of the specification that a state's graph ends in, from the bounds that the
    state has: one backward pass. The points are no functions of the parameters; the bound is."""
    name = _specification(state.graph)
    found = coefficients_of(state, name, method)
    bound, points = found.constant, []
    for node, region in zip(state.graph.inputs, state.given_regions("gap"), strict=True):
        matrix = found.inputs[node.name]
        bound = bound + region.lower_of(matrix)
        owner = torch.arange(state.batch, device=matrix.device).repeat_interleave(matrix.shape[1])
        # Infinite coefficients come from an overflow: the bound is of no use then, but any point is one.
        usable = matrix.detach().flatten(0, 1).nan_to_num(0.0, 0.0, 0.0)
        with torch.no_grad():
            points.append(region.select(owner).minimizer(usable).reshape(matrix.shape))
    return Minimum(bound, tuple(points))


def _specification(graph: Graph) -> str:
    last = graph.outputs[0]
    if len(graph.outputs) != 1 or not isinstance(graph[last].op, Spec):
        raise UsageError(
            f"expected a specification as the only output, got {', '.join('%' + name for name in graph.outputs)}",
            where=f"graph {graph.name!r}",
            hint="give a property, or spec=(C, d) to iv.run",
        )
    return last


@dataclass(frozen=True, eq=False, kw_only=True)
class Gaps(Facts):
    """For each row of the specification the linear bound, the point that attains it, and the network's value there."""

    bound: Tensor
    value: Tensor
    points: Points

    @property
    def gap(self) -> Tensor:
        """d, `[batch, rows]` (paper 2, eq. 8); nonnegative up to rounding. Differentiable, the points held fixed."""
        return self.value - self.bound


@dataclass(frozen=True)
class Gap(Analysis):
    """How far the network is above its linear bounds where these are least (paper 2, eq. 8)."""

    name = "gap"
    lines: Literal["crown", "crown-zero", "fast-lin"] = "crown"
    """Whose lines stand around the nonlinear operators."""

    def run(self, state: State) -> Gaps:
        least = minimum(state, self.lines)
        value = row_values(state, least.points)
        gap = (value - least.bound).detach()
        statistics = {"mean_gap": float(gap.mean()), "max_gap": float(gap.max())} if gap.numel() else {}
        return Gaps(statistics=statistics, bound=least.bound, value=value, points=least.points)


def row_values(state: State, points: Points) -> Tensor:
    """The value of each row of the specification at the point of its own, `[batch, rows]`."""
    graph, name = state.graph, _specification(state.graph)
    count = graph[name].type.shape[0]
    inputs = {node.name: part.flatten(0, 1) for node, part in zip(graph.inputs, points, strict=True)}
    operands = {name: tensor.repeat_interleave(count, dim=0) for name, tensor in state.operands.items()}
    rows = graph.values(inputs | operands)[name].reshape(state.batch, count, count)
    return rows.diagonal(dim1=1, dim2=2)

"""Bounds by dual networks, layer by layer (paper 5, sec. 3.1; Wong and Kolter 2018, alg. 1).

The bounds of each value that a nonlinear operator reads come from the dual network of that value, whose layers rest on
the bounds found before; then the outputs have theirs. The dual networks are graphs in the IR
(`irverify.passes.dual_network`) and are what is evaluated here. Beyond the paper, every value is first bounded by an
interval over its operands: only elements that this leaves open are asked for, and the two are intersected. The first
affine layer over a box needs no dual network: its intervals are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Input, LinearOp
from irverify.passes.dual_layers import DUAL
from irverify.passes.dual_network import layer_operands
from irverify.passes.dual_rows import DualBounds
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.state import State
from irverify.regions import Region
from irverify.regions.base import rowwise


@dataclass(frozen=True)
class Dual(Analysis):
    """Bounds by dual networks, graphs of the IR built layer by layer (paper 5, sec. 3.1)."""

    name = "dual"

    def run(self, state: State) -> Facts:
        walk = _walk(state, frozenset())
        facts = interval_facts(state, IBP, self.name, walk.refine)
        return Facts(facts.bounds, statistics={"dual_rows": walk.rows})


def dual_layers(state: State, *, hidden: bool = True) -> tuple[DualBounds, Mapping[str, Bounds]]:
    """What the dual networks of the outputs rest on, and the bounds of all values: those of the outputs by intervals,
    those before them as `dual` has them or, unless `hidden`, by intervals too.

    `DualBounds.of` gives the bounds of the outputs, of the dual networks alone.
    """
    left = state.graph.outputs if hidden else [node.name for node in state.graph]
    walk = _walk(state, frozenset(left))
    facts = interval_facts(state, IBP, Dual.name, walk.refine)
    return walk.duals, facts.bounds


def _walk(state: State, left: frozenset[str]) -> _Walk:
    DUAL.resolve(state.graph)
    names = [node.name for node in state.graph.inputs]
    regions = dict(zip(names, state.given_regions(Dual.name), strict=True))
    return _Walk(state.graph, regions, DualBounds(state.graph, regions, {}), left)


@dataclass
class _Walk:
    """Refines the intervals of one walk through a graph."""

    graph: Graph
    regions: Mapping[str, Region]
    duals: DualBounds
    left: frozenset[str]
    """The values that keep their intervals."""
    rows: int = 0

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Keeps what the dual layer of `node` takes, and tightens its bounds where it is read by a nonlinear operator
        or is an output."""
        if isinstance(node.op, Input):
            return interval
        self.duals.operands.update(layer_operands(node, interval, [results[name] for name in node.inputs]))
        if interval.exact or node.name in self.left or self._exact_already(node):
            return interval
        asked = rowwise(self._open(node, interval))
        return self._bounded(node, interval, asked) if bool(asked.any()) else interval

    def _exact_already(self, node: Node) -> bool:
        """An affine map of boxes, each read once: no bound is tighter than its interval."""
        read = [self.regions.get(name) for name in node.inputs]
        boxes = all(region is not None and region.is_box for region in read)
        return isinstance(node.op, LinearOp) and boxes and len(set(node.inputs)) == len(node.inputs)

    def _open(self, node: Node, interval: Interval) -> Tensor:
        """The elements `[batch, *shape]` to be bounded: all of an output, and those on which an activation has a
        breakpoint strictly within its interval."""
        if node.name in self.graph.outputs:
            return torch.ones_like(interval.lower, dtype=torch.bool)
        users = {self.graph[name].op for name in self.graph.users(node.name)}
        pieces = [op.pieces() for op in users if isinstance(op, Elementwise)]
        breakpoints = {kink for found in pieces if found is not None for kink in found.breakpoints}
        open_ = torch.zeros_like(interval.lower, dtype=torch.bool)
        for kink in breakpoints:
            open_ = open_ | ((interval.lower < kink) & (kink < interval.upper))
        return open_

    def _bounded(self, node: Node, interval: Interval, asked: Tensor) -> Interval:
        lower, upper = map(rowwise, interval)
        self.rows += int(asked.sum())
        low, high = self.duals.of(node.name, asked)
        # An overflow says nothing: NaN, or a bound that is infinite on the wrong side.
        low, high = (side.nan_to_num(nan=end, posinf=end, neginf=end) for side, end in ((low, -inf), (high, inf)))
        lower = lower.masked_scatter(asked, torch.maximum(low, lower[asked]))
        upper = upper.masked_scatter(asked, torch.minimum(high, upper[asked]))
        lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)  # on a point they cross by rounding
        return Interval(lower.reshape(interval.lower.shape), upper.reshape(interval.upper.shape))

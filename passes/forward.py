"""Linear bounds propagated forward, for networks with few inputs.

Every value lies between two affine functions of the network inputs x (all inputs, flattened, one after the other),

    A_l x + b_l  <=  value(x)  <=  A_u x + b_u      for every x of the region

and operators take such pairs to such pairs by the rules of `planes` (Xu et al. 2020, "Automatic perturbation analysis
for scalable certified robustness and beyond", sec. 3). The range of the planes over the region is intersected with the
interval over the operands tightened so far, at every value, before the next lines are drawn.

The cost is that of evaluating the network on one column for each input and one for the constants, twice. Crown's grows
with the open neurons instead: it is for networks that take more memory than is allowed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import (
    Cast,
    Concat,
    Elementwise,
    Expand,
    Gather,
    Identity,
    Input,
    LinearOp,
    Reshape,
    Slice,
    Transpose,
)
from irverify.passes.ibp import IBP
from irverify.passes.planes import FORWARD, Planes, Range, Step
from irverify.passes.propagate import Interval, interval_facts, tightened
from irverify.passes.relaxations import Choice
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.state import State
from irverify.regions import Region

MEGABYTE = 2**20
MET = (Elementwise, Identity, Cast, Reshape, Transpose, Expand, Slice, Gather, Concat)
"""Whose intervals the range of their planes cannot tighten, since those of their operands have met theirs: each element
is one of the operands', or a function of one, bounded exactly."""


@dataclass(frozen=True)
class Forward(Analysis):
    """Linear bounds over the inputs, propagated forward: for networks with few inputs.

    `lower` is the choice of the line below an unstable ReLU (as in crown, crown-zero, fast-lin). Batches are cut so
    that `memory` megabytes suffice; a single example that needs more is refused.
    """

    name = "forward"
    lower: Choice = "adaptive"
    memory: int = 4096

    def run(self, state: State) -> Facts:
        regions = state.given_regions(self.name)
        batch, fit = state.batch, self._examples(state)
        if batch <= fit:
            return self._facts(state, regions)
        parts = []
        for start in range(0, batch, fit):
            part = _examples(state, regions, slice(start, start + fit))
            parts.append(self._facts(part, part.given_regions(self.name)))
        return Facts({name: _joined([part.bounds[name] for part in parts]) for name in parts[0].bounds})

    def _facts(self, state: State, regions: Sequence[Region]) -> Facts:
        walk = _Walk(state.graph, regions, self.lower)
        return Facts(interval_facts(state, IBP, self.name, walk.refine).bounds)

    def _examples(self, state: State) -> int:
        """How many examples fit into the memory. Raises UnsupportedError where none does."""
        shared, each = _bytes(state.graph)
        fit = (self.memory * MEGABYTE - shared) // each
        if fit < 1:
            columns = sum(node.type.size for node in state.graph.inputs)
            raise UnsupportedError(
                f"forward linear bounds over {columns} inputs take about {(shared + each) // MEGABYTE + 1} megabytes "
                f"for one example, more than the {self.memory} allowed",
                where=f"graph {state.graph.name!r}",
                hint="crown gives bounds without this cost; or allow more with forward{memory=...}",
            )
        return fit


class _Walk:
    """Refines the intervals of one walk through a graph, and keeps planes as long as somebody will read them."""

    def __init__(self, graph: Graph, regions: Sequence[Region], choice: Choice) -> None:
        self.choice = choice
        self.inputs = graph.inputs
        self.rules = {node.name: rule for node, rule in FORWARD.resolve(graph)}
        self.readings = {node.name: len(graph.users(node.name)) for node in graph}
        self.planes: dict[str, Planes] = {}
        self.range = Range(regions)

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Finds the planes of `node` and meets its interval with their range."""
        rule = self.rules[node.name]
        if isinstance(node.op, Input):
            self.planes[node.name] = self.range.identity(self.inputs.index(node))
        elif rule is not None and not interval.exact:
            self.planes[node.name] = rule(self._step(node, interval, results))
            if not isinstance(node.op, MET):
                interval = tightened(interval, *self.range.of(self.planes[node.name]))
        self._free(node)
        return interval

    def _step(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Step:
        def planes(index: int) -> Planes:
            name = node.inputs[index]
            return self.planes[name] if name in self.planes else step.constant(results[name])

        operands = [results[name] for name in node.inputs]
        step = Step(node, interval, operands, planes, self.range.columns, self.choice)
        return step

    def _free(self, node: Node) -> None:
        for name in node.inputs:
            self.readings[name] -= 1
            if not self.readings[name]:
                self.planes.pop(name, None)


def _bytes(graph: Graph) -> tuple[int, int]:
    """What planes take at most, in bytes: those that all examples share, before the first nonlinear operator, and those
    of one example: both sides of every value that is still to be read, and what an operator holds while it works (the
    centre and half width of its operands, those of its result, and the sides apart)."""
    columns = sum(node.type.size for node in graph.inputs) + 1
    last = {name: node.name for node in graph for name in node.inputs}
    shared, sizes = 0, dict[str, int]()
    affine, kept, most = set[str](), 0, 1
    for node in graph:
        reached = [name for name in node.inputs if name in sizes]
        if not (reached or isinstance(node.op, Input)):
            continue
        sizes[node.name] = columns * node.type.size * node.type.dtype.itemsize
        if isinstance(node.op, Input | LinearOp) and affine.issuperset(reached):
            affine.add(node.name)
            shared += sizes[node.name]
            continue
        kept += 2 * sizes[node.name]
        most = max(most, kept + 4 * sizes[node.name] + 2 * max(sizes[name] for name in reached))
        kept -= sum(2 * sizes[name] for name in {*reached} - affine if last[name] == node.name)
    return shared, most


def _examples(state: State, regions: Sequence[Region], index: slice) -> State:
    """The state of some of the examples."""
    operands = {name: tensor[index] for name, tensor in state.operands.items()}
    known = {name: Bounds(each.lower[index], each.upper[index], each.source) for name, each in state.bounds.items()}
    return State(state.graph, tuple(region.select(index) for region in regions), operands, known)


def _joined(parts: Sequence[Bounds]) -> Bounds:
    lower = torch.cat([part.lower for part in parts])
    exact = all(part.lower is part.upper for part in parts)
    return Bounds(lower, lower if exact else torch.cat([part.upper for part in parts]), parts[0].source)

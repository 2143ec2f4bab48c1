"""Linear bounds by backward propagation: CROWN, Fast-Lin and their kin.

Every value that a nonlinear operator reads is bounded first by intervals over its already tightened operands; backward
bounds are then asked only for the elements of each example that these leave open, and are intersected with the
intervals (a value outside its interval cannot occur, so that this is sound and never looser). The first affine layer
over a box needs none: its intervals are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Input, LinearOp, Spec
from irverify.passes.backward import Context, Rows, identity_rows, lower_bounds
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.passes.relaxations import RELAXATIONS, Choice, RelaxRule
from irverify.passes.rules import RuleTable
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

CHUNK = 2**28
"""How many bytes of coefficients over the widest value are propagated at once."""


@dataclass(frozen=True)
class LinearBounds(Analysis):
    """What analyses by backward rows share; subclasses fix the lines around nonlinear operators and where intermediate
    bounds come from."""

    rules: ClassVar[RuleTable[RelaxRule]] = RELAXATIONS
    choice: ClassVar[Choice] = "adaptive"
    intermediate: ClassVar[bool] = True
    """Intermediate bounds come from backward propagation too; else from intervals alone."""

    def run(self, state: State) -> Facts:
        self.rules.resolve(state.graph)
        names = [node.name for node in state.graph.inputs]
        regions = dict(zip(names, state.given_regions(self.name), strict=True))
        wanted = _wanted(state.graph, self.intermediate)
        walk = _Walk(Context(state.graph, regions), self.rules, self.choice, wanted)
        facts = interval_facts(state, IBP, self.name, walk.refine)
        return Facts(facts.bounds, statistics={"backward_rows": walk.rows})


@dataclass(frozen=True)
class Crown(LinearBounds):
    """Backward linear bounds, adaptive lower slope: 1 where u > -l, else 0 (Zhang et al. 2018)."""

    name = "crown"


@dataclass(frozen=True)
class CrownZero(LinearBounds):
    """Backward linear bounds with lower slope 0: never looser than ibp on ReLU networks."""

    name = "crown-zero"
    choice = "zero"


@dataclass(frozen=True)
class FastLin(LinearBounds):
    """Backward linear bounds with parallel lines, the lower slope u / (u - l) (paper 2, sec. 3)."""

    name = "fast-lin"
    choice = "same"


@dataclass(frozen=True)
class CrownIbp(LinearBounds):
    """Backward linear bounds of the outputs, intermediate bounds by intervals (paper 2, sec. 5)."""

    name = "crown-ibp"
    intermediate = False


class _Walk:
    """Refines the intervals of one walk through a graph."""

    def __init__(
        self, context: Context, rules: RuleTable[RelaxRule], choice: Choice, wanted: frozenset[str]
    ) -> None:
        self.context = context
        self.rules = rules
        self.choice = choice
        self.wanted = wanted
        self.rows = 0
        self._boxes = all(region.is_box for region in context.regions.values())
        self._widest = max(node.type.size for node in context.graph)

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Registers how rows pass through `node`, and tightens its interval where it is wanted."""
        if isinstance(node.op, Input):
            return interval
        if interval.exact:
            self.context.known[node.name] = interval.lower
            return interval
        rule = self.rules.find(type(node.op))
        assert rule is not None  # checked for the whole graph before the walk
        self.context.relaxed[node.name] = rule(node, [results[name] for name in node.inputs], self.choice)
        if node.name not in self.wanted or self._exact_already(node):
            return interval
        return self._specification(node, interval) if isinstance(node.op, Spec) else self._elements(node, interval)

    def _exact_already(self, node: Node) -> bool:
        """An affine map of boxes: no bound is tighter than its interval."""
        graph = self.context.graph
        first = isinstance(node.op, LinearOp) and all(isinstance(graph[name].op, Input) for name in node.inputs)
        return self._boxes and first and len(set(node.inputs)) == len(node.inputs)

    def _elements(self, node: Node, interval: Interval) -> Interval:
        """Both bounds of the elements that are open for some reader."""
        open_ = _open(self.context.graph, node, interval)
        batch = open_.shape[0]
        owner, elements = open_.reshape(batch, -1).nonzero(as_tuple=True)
        lower, upper = (side.reshape(batch, -1).clone() for side in interval)
        step = max(1, CHUNK // (2 * self._widest * lower.element_size()))
        for start in range(0, owner.shape[0], step):
            mine, places = owner[start : start + step], elements[start : start + step]
            found = self._bounds(node.name, identity_rows(interval.lower, mine, places))
            low, high = found[: mine.shape[0]], -found[mine.shape[0] :]
            lower[mine, places] = torch.maximum(lower[mine, places], low)
            upper[mine, places] = torch.minimum(upper[mine, places], high)
        return _ordered(lower.reshape(interval.lower.shape), upper.reshape(interval.upper.shape))

    def _specification(self, node: Node, interval: Interval) -> Interval:
        """Lower bounds of all rows of a specification; nobody asks for the upper ones."""
        batch, count = interval.lower.shape
        identity = torch.eye(count, dtype=interval.lower.dtype, device=interval.lower.device)
        owner = torch.arange(batch, device=identity.device).repeat_interleave(count)
        found = self._bounds(node.name, Rows(identity.repeat(batch, 1), owner, batch)).reshape(batch, count)
        return _ordered(torch.maximum(interval.lower, found), interval.upper)

    def _bounds(self, name: str, rows: Rows) -> Tensor:
        self.rows += rows.owner.shape[0]
        return lower_bounds(self.context, name, rows)


def _ordered(lower: Tensor, upper: Tensor) -> Interval:
    """Two bounds that may have crossed by rounding, as on a point."""
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _wanted(graph: Graph, intermediate: bool) -> frozenset[str]:
    """The values that backward bounds are asked for: the outputs, and what nonlinear operators read. What they read from
    elementwise operators is bounded by what these read, and rows over it are never tighter."""
    wanted = set(graph.outputs)
    if intermediate:
        for node in graph:
            if not isinstance(node.op, LinearOp | Spec):
                wanted.update(_behind(graph, name) for name in node.inputs)
    return frozenset(wanted)


def _behind(graph: Graph, name: str) -> str:
    while isinstance(graph[name].op, Elementwise):
        (name,) = graph[name].inputs
    return name


def _open(graph: Graph, node: Node, interval: Interval) -> Tensor:
    """The elements `[batch, *shape]` whose tighter bounds matter: all of an output and of what a smooth or a maximum
    operator reads; for piecewise linear readers those with a breakpoint strictly inside their interval, and those that
    a further nonlinear operator reads behind them and that are not constant there."""
    open_ = torch.zeros_like(interval.lower, dtype=torch.bool)
    if node.name in graph.outputs:
        return ~open_
    for name in graph.users(node.name):
        op = graph[name].op
        if isinstance(op, LinearOp | Spec):
            continue
        pieces = op.pieces() if isinstance(op, Elementwise) else None
        if pieces is None:
            return ~open_
        for breakpoint_ in pieces.breakpoints:
            open_ = open_ | ((interval.lower < breakpoint_) & (breakpoint_ < interval.upper))
        if any(not isinstance(graph[further].op, LinearOp | Spec) for further in graph.users(name)):
            open_ = open_ | (op.evaluate(interval.lower) != op.evaluate(interval.upper))
    return open_

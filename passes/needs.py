"""Which values need tight bounds, and for which of their elements: read off the graph before any bound is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import (
    BatchNorm,
    Concat,
    Conv,
    Elementwise,
    Gather,
    Input,
    LinearOp,
    Neg,
    Operator,
    Pad,
    Reshape,
    ScaleShift,
    Slice,
    Spec,
    Transpose,
)
from irverify.kernels.bounds import inside

Need: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""For which elements tighter bounds than these `[..., *shape]` matter."""
ELEMENT_BY_ELEMENT = (BatchNorm, Neg, Pad, Reshape, ScaleShift, Slice, Transpose)
"""Linear operators whose results each depend on one element of the operand, and no two on the same one."""
PIECEWISE = (Concat, Gather)
"""Linear operators whose results each depend on one element of an operand."""


class Needs:
    """What the readers of each value need, for the outputs and, with `intermediate`, for what nonlinear operators read.

    An increasing elementwise operator hands what is needed of its result on to its operand: no bound of the result is
    tighter than the operator at the bounds of the operand.
    """

    def __init__(self, graph: Graph, intermediate: bool) -> None:
        self._found: dict[str, list[Need]] = {}
        self._smooth: set[str] = set()
        for name in graph.outputs:
            self._ask(graph, name, everything, piecewise=False)
        for node in reversed(graph.nodes) if intermediate else ():
            if isinstance(node.op, LinearOp | Spec):
                continue
            points = _breakpoints(node.op)
            for name in node.inputs:
                self._ask(graph, name, everything if points is None else _between(points), piecewise=points is not None)
        self.stations = frozenset(self._found)
        """The values that are bounded tightly."""

    def _ask(self, graph: Graph, name: str, need: Need, *, piecewise: bool) -> None:
        node = graph[name]
        while _increasing(node.op):
            need = _through(node.op, need)
            node = graph[node.inputs[0]]
        self._found.setdefault(node.name, []).append(need)
        if not piecewise:
            self._smooth.add(node.name)

    def of(self, name: str) -> Need | None:
        """The elements that somebody needs; None where nobody needs any."""
        found = self._found.get(name)
        if found is None:
            return None
        return found[0] if len(found) == 1 else lambda lower, upper: _any(found, lower, upper)

    def pieces(self, name: str) -> bool:
        """Bounds matter only until they leave no breakpoint inside."""
        return name not in self._smooth


@once_a_graph
def needs(graph: Graph, intermediate: bool) -> Needs:
    """The needs of the readers of values, looked up once."""
    return Needs(graph, intermediate)


def everything(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.ones_like(lower, dtype=torch.bool)


def _between(points: tuple[float, ...]) -> Need:
    """The elements with a breakpoint strictly inside their interval."""

    def need(lower: Tensor, upper: Tensor) -> Tensor:
        at_once = inside(lower, upper, points)
        if at_once is not None:
            return at_once
        found = [(lower < point) & (point < upper) for point in points]
        if len(found) == 1:
            return found[0]
        return torch.stack(found).any(0) if found else torch.zeros_like(lower, dtype=torch.bool)

    return need


def _through(op: Operator, need: Need) -> Need:
    """What is needed of the operand of an increasing operator, where its result is not known already."""

    def before(lower: Tensor, upper: Tensor) -> Tensor:
        low, high = op.evaluate(lower), op.evaluate(upper)
        return need(low, high) & (low < high)

    return before


def _any(needs: list[Need], lower: Tensor, upper: Tensor) -> Tensor:
    return torch.stack([need(lower, upper) for need in needs]).any(0)


def _breakpoints(op: Operator) -> tuple[float, ...] | None:
    pieces = op.pieces() if isinstance(op, Elementwise) else None
    return None if pieces is None else tuple(filter(math.isfinite, pieces.breakpoints))


def _increasing(op: Operator) -> bool:
    return isinstance(op, Elementwise) and op.monotone == "increasing"


@once_a_graph
def waited_at(graph: Graph, stations: frozenset[str]) -> frozenset[str]:
    """The inputs and `stations`, and the values over which rows may wait while others are over a station: those that a
    node behind it reads, or a convolution that is read there: rows pass an activation and a convolution at once."""
    place = {node.name: index for index, node in enumerate(graph)}
    last = {name: max(map(place.__getitem__, graph.users(name)), default=at) for name, at in place.items()}

    def behind(name: str) -> int:
        readers = (last[user] if isinstance(graph[user].op, Conv) else place[user] for user in graph.users(name))
        return max(readers, default=place[name])

    waiting = {name for name, at in place.items() if any(at < place[station] < behind(name) for station in stations)}
    return stations.union(waiting, (node.name for node in graph.inputs))


@once_a_graph
def exact_ranges(graph: Graph) -> frozenset[str]:
    """The values whose intervals are the exact ranges of their elements where inputs are boxes: affine maps of what
    depends on the inputs element by element, and what is made of these element by element."""
    free: dict[str, frozenset[str]] = {}
    """Values whose elements range independently of one another, with the inputs that they depend on."""
    exact: set[str] = set()
    for node in graph:
        if isinstance(node.op, Input):
            free[node.name] = frozenset([node.name])
        elif (_increasing(node.op) or isinstance(node.op, ELEMENT_BY_ELEMENT)) and node.inputs[0] in free:
            free[node.name] = free[node.inputs[0]]
        if node.name in free or _exact_from(node, free, exact):
            exact.add(node.name)
    return frozenset(exact)


def _exact_from(node: Node, free: dict[str, frozenset[str]], exact: set[str]) -> bool:
    if _increasing(node.op) or isinstance(node.op, ELEMENT_BY_ELEMENT + PIECEWISE):
        return all(name in exact for name in node.inputs)
    roots = [free.get(name, frozenset()) for name in node.inputs]
    disjoint = sum(map(len, roots)) == len(frozenset().union(*roots))
    return isinstance(node.op, LinearOp) and all(roots) and disjoint

"""Bounds by dual networks, layer by layer (paper 5, sec. 3.1; Wong and Kolter 2018, alg. 1).

The bounds of each value that a nonlinear operator reads come from the dual network of that value, whose layers rest on
the bounds found before; then the outputs have theirs. The dual networks are graphs in the IR
(`irverify.passes.dual_network`) and are what is evaluated here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Input, LinearOp
from irverify.passes.dual_layers import DUAL
from irverify.passes.dual_network import DualNetwork, ball_extremes, box_extremes, dual_network, layer_operands
from irverify.passes.dual_windows import WindowedNetwork, windowed_network
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State
from irverify.regions import Region

CHUNK = 2**25
"""How many bytes the widest value of a dual network may take."""
ALONE = 2**20
"""With rows of this many bytes an example is evaluated by itself, which saves copies of its operands."""


@dataclass(frozen=True)
class Dual(Analysis):
    """Bounds by dual networks, graphs of the IR built layer by layer (paper 5, sec. 3.1)."""

    name = "dual"

    def run(self, state: State) -> Facts:
        DUAL.resolve(state.graph)
        names = [node.name for node in state.graph.inputs]
        walk = _Walk(state.graph, dict(zip(names, state.given_regions(self.name), strict=True)))
        facts = interval_facts(state, IBP, self.name, walk.refine)
        return Facts(facts.bounds, statistics={"dual_rows": walk.rows})


@dataclass
class _Walk:
    """Refines the intervals of one walk through a graph."""

    graph: Graph
    regions: Mapping[str, Region]
    operands: dict[str, Tensor] = field(default_factory=dict)
    """The runtime operands of dual networks, by name."""
    rows: int = 0

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Keeps what the dual layer of `node` takes, and tightens its bounds where it is read by a nonlinear operator
        or is an output."""
        if isinstance(node.op, Input):
            return interval
        self.operands.update(layer_operands(node, interval, [results[name] for name in node.inputs]))
        users = [self.graph[name].op for name in self.graph.users(node.name)]
        wanted = node.name in self.graph.outputs or any(isinstance(op, Elementwise) for op in users)
        if interval.exact or not wanted or self._exact_already(node):
            return interval
        return self._bounded(node, interval)

    def _exact_already(self, node: Node) -> bool:
        """An affine map of boxes, each read once: no bound is tighter than its interval."""
        read = [self.regions.get(name) for name in node.inputs]
        boxes = all(region is not None and region.is_box for region in read)
        return isinstance(node.op, LinearOp) and boxes and len(set(node.inputs)) == len(node.inputs)

    def _bounded(self, node: Node, interval: Interval) -> Interval:
        rows: _Rows = _rows_of(self.graph, node.name, boxes=all(region.is_box for region in self.regions.values()))
        lower, upper = (side.reshape(side.shape[0], -1).clone() for side in interval)
        asked = torch.ones_like(lower, dtype=torch.bool)
        widest = max(value.type.size for value in rows.network.graph) * lower.element_size()
        for owner, elements in _chunks(asked, max(1, CHUNK // widest), widest):
            self.rows += owner.shape[0]
            low, high = self._evaluate(rows, lower.new_ones(()), owner, elements)
            lower[owner, elements] = torch.maximum(low, lower[owner, elements])
            upper[owner, elements] = torch.minimum(high, upper[owner, elements])
        lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)  # on a point they cross by rounding
        return Interval(lower.reshape(interval.lower.shape), upper.reshape(interval.upper.shape))

    def _evaluate(self, rows: _Rows, one: Tensor, owner: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Both bounds of some elements of some examples; `one` has the element type and device."""
        network = rows.network

        def extremes(name: str, nu: Tensor) -> tuple[Tensor, Tensor]:
            region = self.regions[name]
            if not region.is_box:
                return ball_extremes(region.select(owner), nu)
            lower, upper = region.box()
            center, radius = (upper + lower) / 2, (upper - lower) / 2
            return box_extremes(rows.take(center, name, owner, elements), rows.take(radius, name, owner, elements), nu)

        operands = {
            label: rows.take(self.operands[label], label.rpartition(".")[0], owner, elements)
            for label in network.operands
        }
        return network.bounds(rows.unit(one, elements), operands, extremes)


class _Rows(Protocol):
    """Rows of a dual network for elements of its target."""

    @property
    def network(self) -> DualNetwork: ...

    def unit(self, one: Tensor, elements: Tensor) -> Tensor:
        """The rows c that pick the elements, `[rows, *shape]`."""
        ...

    def take(self, tensor: Tensor, name: str, owner: Tensor, elements: Tensor) -> Tensor:
        """What rows see of `tensor` `[batch, *shape]`, which belongs to value `name`: `[rows or 1, *shape]`."""
        ...


@dataclass(frozen=True)
class _Whole:
    """Rows over whole values."""

    network: DualNetwork
    shape: tuple[int, ...]

    def unit(self, one: Tensor, elements: Tensor) -> Tensor:
        return _one_hot(one, elements, math.prod(self.shape)).reshape(-1, *self.shape)

    def take(self, tensor: Tensor, name: str, owner: Tensor, elements: Tensor) -> Tensor:
        first = int(owner[0])
        return tensor[first : first + 1] if first == int(owner[-1]) else tensor.index_select(0, owner)


@dataclass(frozen=True)
class _Windowed:
    """Rows over what one position of a convolution sees."""

    windowed: WindowedNetwork
    channels: int

    @property
    def network(self) -> DualNetwork:
        return self.windowed.network

    @property
    def _places(self) -> int:
        return math.prod(self.windowed.positions)

    def unit(self, one: Tensor, elements: Tensor) -> Tensor:
        rows = _one_hot(one, elements // self._places, self.channels)
        return rows.reshape(-1, self.channels, *(1,) * len(self.windowed.positions))

    def take(self, tensor: Tensor, name: str, owner: Tensor, elements: Tensor) -> Tensor:
        first, last = int(owner[0]), int(owner[-1])
        windows = self.windowed.operand(tensor[first : last + 1], name)
        flat = windows.reshape(-1, *windows.shape[1 + len(self.windowed.positions) :])
        return flat.index_select(0, (owner - first) * self._places + elements % self._places)


def _rows_of(graph: Graph, target: str, *, boxes: bool) -> _Rows:
    """The dual network of a value, of one position where that is worth it and the regions are boxes."""
    shape = graph[target].type.shape
    windowed = windowed_network(graph, target) if boxes else None
    return _Whole(dual_network(graph, target), shape) if windowed is None else _Windowed(windowed, shape[0])


def _one_hot(one: Tensor, elements: Tensor, size: int) -> Tensor:
    rows = one.new_zeros(elements.shape[0], size)
    rows[torch.arange(elements.shape[0], device=elements.device), elements] = 1.0
    return rows


def _chunks(asked: Tensor, step: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The true elements of `asked` `[batch, elements]` as pairs (example, element), at most `step` at a time; examples
    with much to do, at `size` bytes a row, by themselves."""
    counts = asked.sum(1).tolist()
    examples = list[list[int]]()
    for index, count in enumerate(counts):
        if examples and (sum(counts[other] for other in examples[-1]) + count) * size <= ALONE:
            examples[-1].append(index)
        else:
            examples.append([index])
    for group in examples:
        owner, elements = asked[group[0] : group[-1] + 1].nonzero(as_tuple=True)
        for start in range(0, owner.shape[0], step):
            yield owner[start : start + step] + group[0], elements[start : start + step]

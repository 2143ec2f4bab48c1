"""Bounds of elements of a value from its dual network: rows in chunks, whole planes or windows.

A row picks one element of one example; nu is sent back for it alone, and serves the lower and the upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Linear
from irverify.ir.params import value
from irverify.passes.dual_network import DualNetwork, ball_extremes, box_extremes, dual_network
from irverify.passes.dual_windows import WindowedNetwork, windowed_network
from irverify.regions import Region

CHUNK = 2**25
"""How many bytes the widest value of a dual network may take."""
ALONE = 2**20
"""With rows of this many bytes an example is evaluated by itself, which saves copies of its operands."""
KEPT = 2**29
"""About so many bytes of what the rows of one value need for their gradients are kept; the rest is computed again."""


@dataclass(frozen=True)
class DualBounds:
    """What the bounds of all values rest on: the graph, the regions of its inputs, and the runtime operands of dual
    networks by name, which grow as layers get their bounds."""

    graph: Graph
    regions: Mapping[str, Region]
    operands: dict[str, Tensor]

    def of(self, target: str, asked: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the elements of `target` that are true in `asked` `[batch, elements]`, in order;
        `one` is a 1 of the element type of the bounds."""
        rows = _rows_of(self.graph, target, boxes=all(region.is_box for region in self.regions.values()))
        widest = max(node.type.size for node in rows.network.graph) * one.element_size()
        left = KEPT // (one.element_size() * sum(node.type.size for node in rows.network.graph))
        parts = list[tuple[Tensor, Tensor]]()
        for owner, elements in _chunks(asked, max(1, CHUNK // widest), widest):
            left -= owner.shape[0]
            again = torch.is_grad_enabled() and left < 0
            parts.append((self._again if again else self._evaluate)(rows, one, owner, elements))
        if not parts:
            return one.new_zeros(0), one.new_zeros(0)
        return torch.cat([low for low, _ in parts]), torch.cat([high for _, high in parts])

    def _again(self, rows: _Rows, one: Tensor, owner: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
        """`_evaluate`, and once more when gradients are asked for; what they need is not kept in between."""
        found: tuple[Tensor, Tensor] = checkpoint(
            self._evaluate, rows, one, owner, elements, use_reentrant=False, preserve_rng_state=False
        )
        return found

    def _evaluate(self, rows: _Rows, one: Tensor, owner: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
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
        low, high = network.bounds(rows.unit(one, elements), operands, extremes)
        offset = rows.offset(elements)
        return (low, high) if offset is None else (low + offset, high + offset)


class _Rows(Protocol):
    """Rows of a dual network for elements of a value."""

    @property
    def network(self) -> DualNetwork: ...

    def unit(self, one: Tensor, elements: Tensor) -> Tensor:
        """The rows c `[rows, *shape]` that stand for the elements."""
        ...

    def offset(self, elements: Tensor) -> Tensor | None:
        """What an element is more than its row of the network's target, `[rows]`."""
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

    def offset(self, elements: Tensor) -> Tensor | None:
        return None

    def take(self, tensor: Tensor, name: str, owner: Tensor, elements: Tensor) -> Tensor:
        first = int(owner[0])
        return tensor[first : first + 1] if first == int(owner[-1]) else tensor.index_select(0, owner)


@dataclass(frozen=True)
class _Fed(_Whole):
    """Rows over what a linear layer reads: those of its weight, as its dual makes them of rows that pick its elements
    (eq. 9)."""

    layer: Linear

    def unit(self, one: Tensor, elements: Tensor) -> Tensor:
        return value(self.layer.weight).index_select(0, elements)

    def offset(self, elements: Tensor) -> Tensor | None:
        return None if self.layer.bias is None else value(self.layer.bias).index_select(0, elements)


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

    def offset(self, elements: Tensor) -> Tensor | None:
        return None

    def take(self, tensor: Tensor, name: str, owner: Tensor, elements: Tensor) -> Tensor:
        first, last = int(owner[0]), int(owner[-1])
        windows = self.windowed.operand(tensor[first : last + 1], name)
        flat = windows.reshape(-1, *windows.shape[1 + len(self.windowed.positions) :])
        return flat.index_select(0, (owner - first) * self._places + elements % self._places)


_BUILT: WeakKeyDictionary[Graph, dict[tuple[str, bool], _Rows]] = WeakKeyDictionary()
"""The dual networks of graphs that are still in use: they depend on nothing else."""


def _rows_of(graph: Graph, target: str, *, boxes: bool) -> _Rows:
    """The dual network for a value: of what a linear layer reads; of one position, where that is worth it and the
    regions are boxes; else of the value."""
    built = _BUILT.setdefault(graph, {})
    if (target, boxes) not in built:
        built[target, boxes] = _build(graph, graph[target], boxes=boxes)
    return built[target, boxes]


def _build(graph: Graph, node: Node, *, boxes: bool) -> _Rows:
    if isinstance(node.op, Linear) and node.type.rank == 1:
        (operand,) = node.inputs
        return _Fed(dual_network(graph, operand), graph[operand].type.shape, node.op)
    windowed = windowed_network(graph, node.name) if boxes else None
    if windowed is None:
        return _Whole(dual_network(graph, node.name), node.type.shape)
    return _Windowed(windowed, node.type.shape[0])


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

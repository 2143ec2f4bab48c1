"""Where rows come from: whole values, what a linear layer or a specification reads, or one position of a convolution.

Rows stand in groups, `places` for each example, and there are `each` rows to a group. Those of a group see the same
slopes and radii.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Linear, Spec
from irverify.ir.params import value
from irverify.passes.dual_composed import Composed, composed
from irverify.passes.dual_network import DualNetwork, dual_network
from irverify.passes.dual_windows import WindowedNetwork, windowed_network


@dataclass(frozen=True)
class Source(ABC):
    """The rows of the elements of a value, `[batch, elements]`, in groups."""

    network: DualNetwork
    """Takes the rows back to the inputs."""
    each: int

    @property
    def places(self) -> int:
        """The groups of an example."""
        return 1

    def grouped(self, elements: Tensor) -> Tensor:
        """Something `[batch, elements]` by groups, `[batch * places, each]`."""
        return elements

    def listed(self, groups: Tensor) -> Tensor:
        """The inverse of `grouped`."""
        return groups

    def table(self, tensor: Tensor, name: str) -> Tensor:
        """What groups see of `tensor` `[batch, *shape]`, which belongs to value `name`: `[batch * places, *shape]`."""
        return tensor

    @abstractmethod
    def rows(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        """The rows of `elements` over the target of the network: `[1, elements, *shape]`, or `[groups, elements,
        *shape]` where those of groups differ. `one` is a 1 of their type."""

    def pairs(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        """The row of each pair of a group and an element, `[pairs, 1, *shape]`."""
        return self.rows(one, operands, groups[:1], elements)[0].unsqueeze(1)


@dataclass(frozen=True)
class Whole(Source):
    """Rows over a whole value, which pick its elements."""

    def rows(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        shape = self.network.graph[f"nu.{self.network.target}"].type.shape
        return _one_hot(one, elements, math.prod(shape)).reshape(1, -1, *shape)


@dataclass(frozen=True)
class Fed(Source):
    """Rows over what a linear layer reads: those of its weight, as its dual makes them of rows that pick its elements
    (eq. 9)."""

    layer: Linear

    def rows(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        weight = value(self.layer.weight)
        return (weight if elements.shape[0] == self.each else weight.index_select(0, elements)).unsqueeze(0)

    def pairs(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        return value(self.layer.weight).index_select(0, elements).unsqueeze(1)


@dataclass(frozen=True)
class Margins(Source):
    """Rows over what a specification reads: the rows of each example."""

    spec: str

    def rows(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        own = operands[f"{self.spec}.rows"].index_select(0, groups)
        own = own if elements.shape[0] == self.each else own.index_select(1, elements)
        return own.reshape(*own.shape[:2], *self.network.graph[f"nu.{self.network.target}"].type.shape)

    def pairs(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        own = operands[f"{self.spec}.rows"][groups, elements].unsqueeze(1)
        return own.reshape(*own.shape[:2], *self.network.graph[f"nu.{self.network.target}"].type.shape)


@dataclass(frozen=True)
class Windowed(Source):
    """Rows over what one position of a convolution sees: one for each channel."""

    windowed: WindowedNetwork
    composed: Composed | None
    """How all rows of groups are found at once, if there is a way."""

    @property
    def places(self) -> int:
        return math.prod(self.windowed.positions)

    def grouped(self, elements: Tensor) -> Tensor:
        return elements.reshape(-1, self.each, self.places).mT.reshape(-1, self.each)

    def listed(self, groups: Tensor) -> Tensor:
        return groups.reshape(-1, self.places, self.each).mT.flatten(1)

    def table(self, tensor: Tensor, name: str) -> Tensor:
        windows = self.windowed.operand(tensor, name)
        return windows.reshape(-1, *windows.shape[1 + len(self.windowed.positions) :])

    def rows(self, one: Tensor, operands: Mapping[str, Tensor], groups: Tensor, elements: Tensor) -> Tensor:
        return _one_hot(one, elements, self.each).reshape(1, -1, self.each, *(1,) * len(self.windowed.positions))


def source_of(graph: Graph, node: Node, *, boxes: bool) -> Source:
    """The rows of a value: of what a linear layer or a specification reads; of one position, where that is worth it and
    the regions are boxes; else of the value."""
    if isinstance(node.op, Linear) and node.type.rank == 1:
        return Fed(dual_network(graph, node.inputs[0]), node.type.size, node.op)
    if isinstance(node.op, Spec):
        return Margins(dual_network(graph, node.inputs[0]), node.type.size, node.name)
    windowed = windowed_network(graph, node.name) if boxes else None
    if windowed is not None:
        return Windowed(windowed.network, node.type.shape[0], windowed, composed(windowed.network))
    return Whole(dual_network(graph, node.name), node.type.size)


def _one_hot(one: Tensor, elements: Tensor, size: int) -> Tensor:
    rows = one.new_zeros(elements.shape[0], size)
    rows[torch.arange(elements.shape[0], device=elements.device), elements] = 1.0
    return rows

"""Code of a graph while it is being written: its parameters, and the affine maps, which all programs share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.nn import functional

from irverify.backends.torch import steps
from irverify.backends.torch.code import Code
from irverify.backends.torch.layout import columns, flat, trained
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import BatchNorm, Conv, Linear, Reshape
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.ops.convolving import convolved
from irverify.ir.ops.moves import Moves, every
from irverify.ir.params import Param, value


@dataclass
class Writer:
    """What has been written so far. The first thing that the program is given are its parameters."""

    graph: Graph
    code: Code = field(default_factory=Code)
    parameters: list[Param] = field(default_factory=list)
    batch: fx.Node | None = None
    """A value with the batch axis that all values have."""
    _places: dict[int, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._given = self.code.given("parameters")

    def call(self, function: Callable[..., object], *arguments: object, **options: object) -> fx.Node:
        return self.code.call(function, *arguments, **options)

    def once(self, function: Callable[..., object], *arguments: object) -> fx.Node:
        return self.code.once(function, *arguments)

    def step(self, module: nn.Module, node: Node, *arguments: object) -> fx.Node:
        """A call of a step that has the node's parameters as its first argument."""
        return self.code.module(module, tuple(map(self.parameter, node.op.parameters().values())), *arguments)

    def parameter(self, parameter: Param) -> fx.Node:
        if id(parameter) not in self._places:
            self._places[id(parameter)] = self.call(operator.getitem, self._given, len(self.parameters))
            self.parameters.append(parameter)
        return self._places[id(parameter)]

    def optional(self, parameter: Param | None) -> fx.Node | None:
        return None if parameter is None else self.parameter(parameter)

    def magnitude(self, weight: fx.Node) -> fx.Node:
        return self.once(torch.abs, weight)

    def half(self, weight: fx.Node) -> fx.Node:
        return self.once(operator.mul, weight, 0.5)

    def weighed_ends(
        self, lower: fx.Node, upper: fx.Node, weight: fx.Node
    ) -> tuple[fx.Node, fx.Node, fx.Node, fx.Node]:
        """Centre and radius, the weight and its magnitude; or twice the first two and half the others."""
        found = self.once(steps.weighed, lower, upper, weight)
        center, radius, signed, absolute = (self.once(operator.getitem, found, index) for index in range(4))
        return center, radius, signed, absolute

    # Affine maps. The columns of a product over flattened channels are put into their order in memory, once for all of
    # its operands, unless these are few.

    def operand(self, node: Node) -> str:
        """The value that an affine map is written over: its operand, or what was flattened for it."""
        source = self._flattened(node)
        return node.inputs[0] if source is None else source.name

    def weight(self, node: Node) -> fx.Node:
        """The weight of an affine map over `operand`."""
        assert isinstance(node.op, Linear | Conv)
        weight, source = self.parameter(node.op.weight), self._flattened(node)
        return weight if source is None else self.once(columns, weight, source.type.shape, self.batch)

    def affine(self, node: Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
        op = node.op
        if isinstance(op, Linear):
            source = self._flattened(node)
            return self.call(functional.linear, x if source is None else self.once(flat, x, weight), weight, bias)
        assert isinstance(op, Conv)
        kernel = value(op.weight).shape[2:]
        moves = Moves.of(kernel, op.stride, op.padding, op.dilation)
        if not moves.plain:
            x = self.once(every, self.once(pad_spatial, x, moves.around), moves.every)
        operand = self.once(trained, x)
        return self.call(convolved, operand, weight, bias, moves.stride, moves.padding, moves.dilation, op.groups)

    def _flattened(self, node: Node) -> Node | None:
        """The value with channels and two axes that was flattened for a product."""
        before = self.graph[node.inputs[0]]
        if not (isinstance(node.op, Linear) and isinstance(before.op, Reshape) and before.type.rank == 1):
            return None
        source = self.graph[before.inputs[0]]
        return source if source.type.rank == 3 else None

    def channels(self, node: Node, statistics: tuple[fx.Node, fx.Node] | None = None) -> tuple[fx.Node, fx.Node]:
        """Factor and constant of each channel of a batch normalisation, with these statistics or the running ones."""
        op = node.op
        assert isinstance(op, BatchNorm)
        mean, variance = statistics or (self.parameter(op.mean), self.parameter(op.variance))
        scale = self.once(steps.channel_scale, variance, self.optional(op.weight), op.epsilon)
        return scale, self.once(steps.channel_shift, mean, scale, self.optional(op.bias))

"""A graph written out as straight-line torch code: concrete values and interval bounds, node by node.

Intervals stay in whichever form they come: centre and radius after an affine map, both ends after a monotone one. Ends
become `2 mu = l + u` and `2 r = u - l`, with half the weight in the next affine map where that is the smaller tensor
(paper 4, eq. 6): exactly the same numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.nn import functional

from irverify.backends.torch import steps
from irverify.backends.torch.code import Code
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import (
    Add,
    BatchNorm,
    Cast,
    Constant,
    Conv,
    Identity,
    Input,
    Linear,
    LinearOp,
    Neg,
    Operand,
    Relu,
    Reshape,
    Spec,
    Sub,
)
from irverify.ir.ops.conv import CONV, pad_spatial
from irverify.ir.ops.memory import channels_last, reshaped
from irverify.ir.params import Param, value


@dataclass
class Span:
    """The interval of a value in a program: both ends, or centre and radius; one node twice where it is exact."""

    lower: fx.Node | None = None
    upper: fx.Node | None = None
    center: fx.Node | None = None
    radius: fx.Node | None = None
    exact: bool = False


@dataclass
class Emission:
    """What has been written so far. `trained` are the batch normalisations that take the statistics of the batch."""

    graph: Graph
    trained: frozenset[str]
    code: Code = field(default_factory=Code)
    parameters: list[Param] = field(default_factory=list)
    values: dict[str, fx.Node] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    statistics: dict[str, tuple[fx.Node, fx.Node]] = field(default_factory=dict)
    _places: dict[int, fx.Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._given = self.code.given("parameters")
        self.clean = [self.code.given(f"clean_{index}") for index in range(len(self.graph.inputs))]
        self.lower = [self.code.given(f"lower_{index}") for index in range(len(self.graph.inputs))]
        self.upper = [self.code.given(f"upper_{index}") for index in range(len(self.graph.inputs))]
        self.labels = self.code.given("labels")

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

    # Intervals

    def ends(self, name: str) -> tuple[fx.Node, fx.Node]:
        """Lower and upper end of a value."""
        span = self.spans[name]
        if span.lower is None or span.upper is None:
            span.lower = self.call(operator.sub, span.center, span.radius)
            span.upper = self.call(operator.add, span.center, span.radius)
        return span.lower, span.upper

    def middle(self, name: str) -> tuple[fx.Node, fx.Node]:
        """Centre and radius of a value."""
        span = self.spans[name]
        if span.center is None or span.radius is None:
            span.center = self.half(self.once(operator.add, span.lower, span.upper))
            span.radius = self.half(self.once(operator.sub, span.upper, span.lower))
        return span.center, span.radius

    def weighed(self, name: str, weight: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, fx.Node]:
        """Centre and radius of a value, the weight and its magnitude; or twice the first two and half the others."""
        span = self.spans[name]
        if span.center is not None and span.radius is not None:
            return span.center, span.radius, weight, self.magnitude(weight)
        found = self.once(steps.weighed, *self.ends(name), weight)
        center, radius, signed, absolute = (self.once(operator.getitem, found, index) for index in range(4))
        return center, radius, signed, absolute

    # Both walks

    def write_values(self) -> None:
        """Concrete values of every node but the specification."""
        for node in self.graph:
            if isinstance(node.op, Input):
                self.values[node.name] = self.clean[self.graph.inputs.index(node)]
            elif not isinstance(node.op, Operand | Spec):
                self.values[node.name] = self._value(node, [self.values[name] for name in node.inputs])

    def write_spans(self) -> None:
        """Interval bounds of every node but the specification, after the concrete values."""
        for node in self.graph:
            if isinstance(node.op, Input):
                index = self.graph.inputs.index(node)
                self.spans[node.name] = Span(self.lower[index], self.upper[index])
            elif not isinstance(node.op, Operand | Spec):
                self.spans[node.name] = self._span(node)

    def _value(self, node: Node, operands: Sequence[fx.Node]) -> fx.Node:
        op = node.op
        if isinstance(op, Constant):
            return self.call(steps.expanded, self.parameter(op.tensor), self.clean[0])
        if node.name in self.trained:
            assert isinstance(op, BatchNorm)
            found = self.call(steps.statistics, operands[0])
            mean, variance = (self.call(operator.getitem, found, index) for index in range(2))
            self.statistics[node.name] = mean, variance
            return self.call(steps.by_channel, operands[0], *self.normalisation(node))
        if isinstance(op, Identity):
            return operands[0]
        if isinstance(op, Relu):
            return self.call(torch.relu, operands[0])
        if isinstance(op, Reshape):
            return self.call(reshaped, operands[0], op.shape)
        if type(op) is Add and len(operands) == 2:
            return self.call(operator.add, *operands)
        if isinstance(op, Linear | Conv):
            return self.affine(op, operands[0], self.parameter(op.weight), self.optional(op.bias))
        return self.step(steps.ValueStep(node), node, *operands)

    def _span(self, node: Node) -> Span:
        op, spans = node.op, [self.spans[name] for name in node.inputs]
        if all(span.exact for span in spans):  # a constant, or what is made of constants
            known = self.values[node.name]
            return Span(known, known, exact=True)
        if isinstance(op, Identity):
            return spans[0]
        if isinstance(op, Linear | Conv):
            weight = self.parameter(op.weight)
            center, radius, signed, absolute = self.weighed(node.inputs[0], weight)
            return Span(
                center=self.affine(op, center, signed, self.optional(op.bias)),
                radius=self.affine(op, radius, absolute, None),
            )
        if isinstance(op, BatchNorm):
            scale, shift = self.normalisation(node)
            center, radius = self.middle(node.inputs[0])
            return Span(
                center=self.call(steps.by_channel, center, scale, shift),
                radius=self.call(steps.by_channel, radius, self.magnitude(scale), None),
            )
        if isinstance(op, Relu):
            lower, upper = self.ends(node.inputs[0])
            return Span(self.call(torch.relu, lower), self.call(torch.relu, upper))
        return self._by_form(node, op, spans)

    def _by_form(self, node: Node, op: object, spans: Sequence[Span]) -> Span:
        """Operators that are written for whichever form their operands are in, and all others by their rules."""
        centered = all(span.center is not None for span in spans)
        names = node.inputs
        if isinstance(op, Neg):
            center, radius = self.middle(names[0])
            return Span(center=self.call(operator.neg, center), radius=radius)
        if isinstance(op, Sub) and names[0] != names[1] and centered:
            (center, radius), (other, more) = self.middle(names[0]), self.middle(names[1])
            return Span(center=self.call(operator.sub, center, other), radius=self.call(operator.add, radius, more))
        if isinstance(op, LinearOp) and op.nonnegative and not isinstance(op, Cast) and not op.parameters():
            pairs = [self.middle(name) if centered else self.ends(name) for name in names]
            first, second = (self._value(node, list(side)) for side in zip(*pairs, strict=True))
            return Span(center=first, radius=second) if centered else Span(first, second)
        flat = [end for name in names for end in self.ends(name)]
        found = self.step(steps.IntervalStep(node), node, *flat)
        lower, upper = (self.call(operator.getitem, found, index) for index in range(2))
        return Span(lower, upper)

    def affine(self, op: Linear | Conv, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
        if isinstance(op, Linear):
            return self.call(functional.linear, x, weight, bias)
        symmetric = all(before == after >= 0 for before, after in op.padding)
        padding = tuple(before for before, _ in op.padding) if symmetric else 0
        operand = self.once(channels_last, x if symmetric else self.call(pad_spatial, x, op.padding))
        convolve = CONV[value(op.weight).ndim - 2]
        return self.call(convolve, operand, weight, bias, op.stride, padding, op.dilation, op.groups)

    def normalisation(self, node: Node) -> tuple[fx.Node, fx.Node]:
        """Factor and constant of each channel: from the clean batch, or from the running statistics."""
        op = node.op
        assert isinstance(op, BatchNorm)
        mean, variance = self.statistics.get(node.name) or (self.parameter(op.mean), self.parameter(op.variance))
        scale = self.once(steps.channel_scale, variance, self.optional(op.weight), op.epsilon)
        return scale, self.once(steps.channel_shift, mean, scale, self.optional(op.bias))

"""A graph written out as straight-line torch code: concrete values and interval bounds, node by node.

Intervals stay in whichever form they come: centre and radius after an affine map, both ends after a monotone one. Ends
become `2 mu = l + u` and `2 r = u - l`, with half the weight in the next affine map where that is the smaller tensor
(paper 4, eq. 6): exactly the same numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from irverify.backends.torch import steps
from irverify.backends.torch.writing import Writer
from irverify.ir.graph import Node
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
from irverify.ir.ops.memory import reshaped


@dataclass
class Span:
    """The interval of a value in a program: both ends, or centre and radius; one node twice where it is exact."""

    lower: fx.Node | None = None
    upper: fx.Node | None = None
    center: fx.Node | None = None
    radius: fx.Node | None = None
    exact: bool = False


@dataclass
class Emission(Writer):
    """Concrete values and intervals that have been written so far. `trained` are the batch normalisations that take the
    statistics of the batch."""

    trained: frozenset[str] = frozenset()
    values: dict[str, fx.Node] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    statistics: dict[str, tuple[fx.Node, fx.Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs = range(len(self.graph.inputs))
        self.clean = [self.code.given(f"clean_{index}") for index in inputs]
        self.batch = self.clean[0]
        self.lower = [self.code.given(f"lower_{index}") for index in inputs]
        self.upper = [self.code.given(f"upper_{index}") for index in inputs]
        self.labels = self.code.given("labels")

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
        return self.weighed_ends(*self.ends(name), weight)

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
            return self.affine(node, self.values[self.operand(node)], self.weight(node), self.optional(op.bias))
        return self.step(steps.ValueStep(node), node, *operands)

    def _span(self, node: Node) -> Span:
        op, spans = node.op, [self.spans[name] for name in node.inputs]
        if all(span.exact for span in spans):  # a constant, or what is made of constants
            known = self.values[node.name]
            return Span(known, known, exact=True)
        if isinstance(op, Identity):
            return spans[0]
        if isinstance(op, Linear | Conv):
            center, radius, signed, absolute = self.weighed(self.operand(node), self.weight(node))
            return Span(
                center=self.affine(node, center, signed, self.optional(op.bias)),
                radius=self.affine(node, radius, absolute, None),
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

    def normalisation(self, node: Node) -> tuple[fx.Node, fx.Node]:
        """Factor and constant of each channel: from the clean batch, or from the running statistics."""
        return self.channels(node, self.statistics.get(node.name))

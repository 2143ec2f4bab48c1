"""The margins of a graph written out as torch code: by intervals, and by backward rows through interval bounds."""

from __future__ import annotations

import operator

from torch import fx
from torch.nn import functional

from irverify.backends.torch import steps
from irverify.backends.torch.emission import Emission
from irverify.ir.graph import Node
from irverify.ir.ops import Add, BatchNorm, Conv, Identity, Input, Linear, Relu, Reshape, Spec


def write_logits(emission: Emission, spec: Node) -> fx.Node:
    """The outputs `[batch, classes]`, one after the other; the specification may have the last layer inside."""
    assert isinstance(spec.op, Spec)
    y = emission.values[spec.inputs[0]]
    if spec.op.weight is None:
        return y
    weight, bias = emission.parameter(spec.op.weight), emission.optional(spec.op.bias)
    return emission.call(functional.linear, y, weight, bias)


def write_interval_margins(emission: Emission, spec: Node) -> fx.Node:
    """Lower bounds of `logit_y - logit_j` from the interval of what the specification reads (paper 4, eq. 9)."""
    op, labels = spec.op, emission.labels
    assert isinstance(op, Spec)
    if op.weight is None:
        center, radius = emission.middle(spec.inputs[0])
        spread = emission.call(steps.spread_of_outputs, radius, labels)
    else:
        weight = emission.parameter(op.weight)
        operand, radius, signed, _ = emission.weighed(spec.inputs[0], weight)
        center = emission.call(functional.linear, operand, signed, emission.optional(op.bias))
        spread = emission.call(steps.spread_of_pairs, radius, signed, labels)
    return emission.call(operator.sub, emission.call(steps.difference, center, labels), spread)


class Backward:
    """The rows `logit_y - logit_j` of all other classes, taken back to the inputs (paper 2, sec. 3; for any DAG: what
    several readers of a value ask for adds up)."""

    def __init__(self, emission: Emission, spec: Node, classes: int) -> None:
        assert isinstance(spec.op, Spec)
        self._emission = emission
        labels, weight = emission.labels, emission.optional(spec.op.weight)
        rest = emission.call(steps.others, labels, classes)
        like = emission.ends(spec.inputs[0])[0]
        rows = emission.call(steps.margin_rows, weight, labels, rest, like)
        self.rest = rest
        self._pending = {spec.inputs[0]: rows}
        self._constants: list[fx.Node] = []
        if spec.op.bias is not None:
            bias = emission.parameter(spec.op.bias)
            self._constants.append(emission.call(steps.margin_constants, bias, labels, rest))

    def run(self) -> fx.Node:
        """Lower bounds of the rows, `[batch (classes - 1)]`."""
        for node in reversed(self._emission.graph.nodes):
            rows = self._pending.pop(node.name, None)
            if rows is not None:
                self._pass(node, rows)
        total = self._constants[0]
        for constant in self._constants[1:]:
            total = self._emission.call(operator.add, total, constant)
        return total

    def _pass(self, node: Node, rows: fx.Node) -> None:
        emission = self._emission
        span = emission.spans[node.name]
        if isinstance(node.op, Input):
            self._constants.append(emission.call(steps.minimum_rows, rows, *emission.middle(node.name)))
        elif span.exact:
            self._constants.append(emission.call(steps.dot_rows, rows, span.lower))
        elif (parts := self._through(node, rows)) is not None:
            self._add(node, parts)
        else:
            ends = [end for name in node.inputs for end in emission.ends(name)]
            found = emission.step(steps.RowStep(node), node, rows, *ends)
            results = [emission.call(operator.getitem, found, index) for index in range(len(node.inputs) + 1)]
            self._constants.append(results.pop())
            self._add(node, results)

    def _add(self, node: Node, parts: list[fx.Node]) -> None:
        for name, part in zip(node.inputs, parts, strict=True):
            before = self._pending.get(name)
            self._pending[name] = part if before is None else self._emission.call(operator.add, before, part)

    def _through(self, node: Node, rows: fx.Node) -> list[fx.Node] | None:
        """The rows over the operands of a node, its constants noted; None where it is left to its relaxation."""
        emission, op = self._emission, node.op
        if isinstance(op, Relu):
            lines = emission.call(steps.relu_lines, *emission.ends(node.inputs[0]))
            slope, high, top = (emission.call(operator.getitem, lines, index) for index in range(3))
            found = emission.call(steps.relu_rows, rows, slope, high, top)
            self._constants.append(emission.call(operator.getitem, found, 1))
            return [emission.call(operator.getitem, found, 0)]
        if isinstance(op, Identity):
            return [rows]
        if type(op) is Add:
            return [rows] * len(node.inputs)
        if isinstance(op, Reshape):
            shape = emission.graph[node.inputs[0]].type.shape
            return [emission.call(steps.flattened, rows, shape)]
        if isinstance(op, BatchNorm):
            scale, shift = emission.normalisation(node)
            self._constants.append(emission.call(steps.channel_rows, rows, shift))
            return [emission.call(steps.by_channel, rows, scale, None)]
        if isinstance(op, Linear) and node.type.rank == 1:
            return [self._linear(op, rows)]
        if isinstance(op, Conv):
            if op.bias is not None:
                self._constants.append(emission.call(steps.channel_rows, rows, emission.parameter(op.bias)))
            operand = emission.graph[node.inputs[0]].type
            return [emission.step(steps.AdjointStep(node, operand), node, rows)]
        return None

    def _linear(self, op: Linear, rows: fx.Node) -> fx.Node:
        emission = self._emission
        if op.bias is not None:
            self._constants.append(emission.call(operator.matmul, rows, emission.parameter(op.bias)))
        return emission.call(operator.matmul, rows, emission.parameter(op.weight))

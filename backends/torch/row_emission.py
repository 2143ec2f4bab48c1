"""The margins of a graph written out as torch code: by intervals, and by backward rows through interval bounds."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional

from irverify.backends.torch import steps
from irverify.backends.torch.adjoints import Convolution, Layer, Product
from irverify.backends.torch.bending import BendStep, lines, minimum
from irverify.backends.torch.blocks import InBlocks
from irverify.backends.torch.code import Code
from irverify.backends.torch.emission import Emission
from irverify.backends.torch.layout import columns
from irverify.ir.graph import Node
from irverify.ir.ops import Add, BatchNorm, Conv, Identity, Input, Linear, Relu, Reshape, Spec
from irverify.ir.ops.memory import reshaped


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


def write_backward_margins(emission: Emission, spec: Node, classes: int, interval: fx.Node) -> fx.Node:
    """Lower bounds of `logit_y - logit_j` from the rows of all other classes j, taken back to the inputs."""
    assert isinstance(spec.op, Spec)
    if classes == 1:
        return interval
    weight, bias, labels = emission.optional(spec.op.weight), emission.optional(spec.op.bias), emission.labels
    rest = emission.call(steps.others, labels, classes)
    rows = emission.call(steps.margin_rows, weight, labels, rest, emission.ends(spec.inputs[0])[0])
    found = Backward(emission, classes - 1).run(spec.inputs[0], rows)
    if bias is not None:
        found = emission.call(operator.add, found, emission.call(steps.margin_constants, bias, labels, rest))
    return emission.call(steps.placed, found, rest)


class Backward:
    """Rows over a value, taken back to the inputs (paper 2, sec. 3; for any DAG: what several readers of a value ask
    for adds up). This is a program of its own, called with some examples at a time."""

    def __init__(self, emission: Emission, count: int) -> None:
        self._emission, self._count = emission, count
        self._code = Code()
        self._rows, self._shared, self._each = (self._code.given(name) for name in ("rows", "shared", "each"))
        self._outer: dict[fx.Node, list[fx.Node]] = {self._shared: [], self._each: []}
        self._pending: dict[str, fx.Node] = {}
        self._constants: list[fx.Node] = []

    def run(self, name: str, rows: fx.Node) -> fx.Node:
        """Lower bounds `[batch, count]` of the rows `[batch, count, *shape]`."""
        graph = self._emission.graph
        self._pending[name] = self._code.call(torch.flatten, self._rows, 0, 1)
        for node in reversed(graph.nodes):
            found = self._pending.pop(node.name, None)
            if found is not None:
                self._pass(node, found)
        total = self._constants[0]
        for constant in self._constants[1:]:
            total = self._code.call(operator.add, total, constant)
        size = self._count * max(node.type.size for node in graph if not isinstance(node.op, Spec))
        step = InBlocks(self._code.finished(total), size)
        return self._emission.code.module(step, rows, *map(tuple, self._outer.values()))

    # What the program reads: tensors for all examples, such as parameters, and tensors with an entry for each

    def _for_all(self, outer: fx.Node | None) -> fx.Node | None:
        return None if outer is None else self._read(self._shared, outer)

    def _for_each(self, *outer: fx.Node | None) -> list[fx.Node]:
        return [self._read(self._each, node) for node in outer if node is not None]

    def _read(self, given: fx.Node, outer: fx.Node) -> fx.Node:
        known = self._outer[given]
        if outer not in known:
            known.append(outer)
        return self._code.once(operator.getitem, given, known.index(outer))

    def _step(self, module: nn.Module, node: Node, *arguments: object) -> fx.Node:
        given = tuple(self._for_all(self._emission.parameter(part)) for part in node.op.parameters().values())
        return self._code.module(module, given, *arguments)

    # Node by node

    def _pass(self, node: Node, rows: fx.Node) -> None:
        emission, code = self._emission, self._code
        span = emission.spans[node.name]
        if isinstance(node.op, Input):
            self._constants.append(code.call(minimum, rows, *self._for_each(*emission.middle(node.name))))
        elif span.exact:
            self._constants.append(code.call(steps.dot_rows, rows, *self._for_each(span.lower)))
        elif isinstance(node.op, Relu):
            self._bend(node, rows)
        elif (parts := self._through(node, rows)) is not None:
            self._add(node, parts)
        else:
            ends = self._for_each(*(end for name in node.inputs for end in emission.ends(name)))
            found = self._step(steps.RowStep(node), node, rows, *ends)
            results = [code.call(operator.getitem, found, index) for index in range(len(node.inputs) + 1)]
            self._constants.append(results.pop())
            self._add(node, results)

    def _add(self, node: Node, parts: list[fx.Node]) -> None:
        for name, part in zip(node.inputs, parts, strict=True):
            before = self._pending.get(name)
            self._pending[name] = part if before is None else self._code.call(operator.add, before, part)

    def _bend(self, relu: Node, rows: fx.Node) -> None:
        """The rows over a ReLU, taken through the affine layer before it as well where only the ReLU reads that."""
        emission = self._emission
        node, layer, weight, bias = self._before(relu)
        found = emission.call(lines, *emission.ends(relu.inputs[0]), bias)
        parts = (emission.call(operator.getitem, found, index) for index in range(3 if bias is None else 4))
        found = self._code.module(BendStep(layer), rows, self._for_each(*parts), self._for_all(weight))
        self._constants.append(self._code.call(operator.getitem, found, 1))
        self._add(node, [self._code.call(operator.getitem, found, 0)])

    def _before(self, relu: Node) -> tuple[Node, Layer | None, fx.Node | None, fx.Node | None]:
        """The node to whose operand a ReLU and the layer before it lead, with that layer, its weight and bias; the ReLU
        itself where it has no such layer. A batch normalisation in between is a part of the layer, and so is a reshape
        before a product."""
        emission = self._emission
        maker = self._alone(relu)
        norm = maker if maker is not None and isinstance(maker.op, BatchNorm) else None
        node = maker if norm is None else self._alone(norm)
        if node is None or not isinstance(node.op, Conv | Linear):
            return relu, None, None, None
        if isinstance(node.op, Linear) and node.type.rank > 1:
            return relu, None, None, None
        weight, bias = emission.parameter(node.op.weight), emission.optional(node.op.bias)
        if norm is not None:
            scale, shift = emission.normalisation(norm)
            bias = shift if bias is None else emission.call(torch.addcmul, shift, bias, scale)
            weight = emission.call(steps.by_row, weight, scale)
        shape = emission.graph[node.inputs[0]].type.shape
        if isinstance(node.op, Conv):
            return node, Convolution(node.op, shape), weight, bias
        before = self._alone(node)
        if before is not None and isinstance(before.op, Reshape):
            node, shape = before, emission.graph[before.inputs[0]].type.shape
        return node, Product(shape), emission.once(columns, weight, shape), bias

    def _alone(self, reader: Node) -> Node | None:
        """What makes the value that a node reads, where nobody else reads it and it is not constant."""
        name = reader.inputs[0]
        alone = len(self._emission.graph.users(name)) == 1 and not self._emission.spans[name].exact
        return self._emission.graph[name] if alone else None

    def _through(self, node: Node, rows: fx.Node) -> list[fx.Node] | None:
        """The rows over the operands of a node, its constants noted; None where it is left to its relaxation."""
        emission, code, op = self._emission, self._code, node.op
        if isinstance(op, Identity):
            return [rows]
        if type(op) is Add:
            return [rows] * len(node.inputs)
        if isinstance(op, Reshape):
            return [code.call(reshaped, rows, emission.graph[node.inputs[0]].type.shape)]
        if isinstance(op, BatchNorm):
            scale, shift = map(self._for_all, emission.normalisation(node))
            self._constants.append(code.call(steps.channel_rows, rows, shift))
            return [code.call(steps.by_channel, rows, scale, None)]
        if isinstance(op, Linear) and node.type.rank == 1:
            if op.bias is not None:
                bias = self._for_all(emission.parameter(op.bias))
                self._constants.append(code.call(operator.matmul, rows, bias))
            return [code.call(operator.matmul, rows, self._for_all(emission.parameter(op.weight)))]
        if isinstance(op, Conv):
            if op.bias is not None:
                bias = self._for_all(emission.parameter(op.bias))
                self._constants.append(code.call(steps.channel_rows, rows, bias))
            return [self._step(steps.AdjointStep(node, emission.graph[node.inputs[0]].type), node, rows)]
        return None

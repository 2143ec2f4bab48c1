"""SingleProp written out as straight-line torch code: z_nom and v of the outputs over a box (paper 3, eq. 6)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from irverify.backends.torch.half_chain import half_chain
from irverify.backends.torch.steps import bound
from irverify.backends.torch.writing import Writer
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Add, Constant, Conv, Identity, Input, Linear, Operand, Relu, Reshape
from irverify.ir.ops.memory import reshaped
from irverify.ir.params import value
from irverify.passes.half_relu import half_relu
from irverify.passes.lines import Choice
from irverify.passes.singleprop import SINGLEPROP, Half

Pair = tuple[fx.Node, fx.Node]


class HalfProgram:
    """What `passes.singleprop.halves` finds, for a graph of one input whose values all depend on it."""

    def __init__(self, graph: Graph, choice: Choice) -> None:
        self._choice, self._chain = choice, half_chain(graph, choice)
        writer = Writer(graph)
        found: dict[str, Pair] = {}
        for node, _ in SINGLEPROP.resolve(graph):
            found[node.name] = self._written(writer, node, found)
        self._code = writer.code.finished(*(found[name] for name in graph.outputs))
        self._parameters = tuple(writer.parameters)

    def __call__(self, lower: Tensor, upper: Tensor) -> list[Half]:
        """z_nom and v of each output, over a box `[batch, *shape]`."""
        found = None if self._chain is None else self._chain(lower, upper)
        if found is not None:
            return [found]
        return [Half(*pair) for pair in self._code(tuple(map(value, self._parameters)), lower, upper)]

    def _written(self, writer: Writer, node: Node, found: dict[str, Pair]) -> Pair:
        op, pairs = node.op, [found[name] for name in node.inputs]
        if isinstance(op, Input):
            self._ends = writer.code.given("lower"), writer.code.given("upper")
            writer.batch = self._ends[0]
            center, gap = writer.call(operator.add, *self._ends), writer.call(operator.sub, *reversed(self._ends))
            return writer.half(center), writer.half(gap)
        if isinstance(op, Identity):
            return pairs[0]
        if isinstance(op, Linear | Conv):
            weight = writer.weight(node)
            if isinstance(writer.graph[writer.operand(node)].op, Input):
                center, gap, signed, absolute = writer.weighed_ends(*self._ends, weight)
            else:
                (center, gap), signed, absolute = found[writer.operand(node)], weight, writer.magnitude(weight)
            return (
                writer.affine(node, center, signed, writer.optional(op.bias)),
                writer.affine(node, gap, absolute, None),
            )
        if isinstance(op, Reshape):
            center, gap = (writer.call(reshaped, part, op.shape) for part in pairs[0])
            return center, gap
        if type(op) is Add and len(pairs) == 2:
            center, gap = (writer.call(operator.add, *parts) for parts in zip(*pairs, strict=True))
            return center, gap
        if isinstance(op, Relu):
            both = writer.call(half_relu, *pairs[0], self._choice)
        else:
            both = writer.step(HalfStep(node, self._choice), node, *(part for pair in pairs for part in pair))
        center, gap = (writer.call(operator.getitem, both, index) for index in range(2))
        return center, gap


class HalfStep(nn.Module):
    """The rule of SingleProp for a node."""

    def __init__(self, node: Node, choice: Choice) -> None:
        super().__init__()
        self._node, self._choice = node, choice
        self._rule = SINGLEPROP.find(type(node.op))

    def forward(self, parameters: Sequence[Tensor], *parts: Tensor) -> tuple[Tensor, Tensor]:
        """`parts` are z_nom and v of each operand in turn."""
        assert self._rule is not None  # checked for the whole graph before
        operands = [Half(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        found = self._rule(bound(self._node, parameters), operands, self._choice)
        return found.nominal, found.gap


def half_program(graph: Graph, choice: Choice) -> HalfProgram | None:
    """The program of a graph, kept as long as the graph is; None where some value does not depend on the input."""
    known = _PROGRAMS.setdefault(graph, {})
    if choice not in known:
        still = any(isinstance(node.op, Constant | Operand) for node in graph)
        known[choice] = None if still else HalfProgram(graph, choice)
    return known[choice]


_PROGRAMS: WeakKeyDictionary[Graph, dict[Choice, HalfProgram | None]] = WeakKeyDictionary()

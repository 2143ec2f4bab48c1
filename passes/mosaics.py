"""Values that are another one element by element: at each place an activation of the element there, the element itself,
or 0.

What is left of a ReLU some of whose elements are pruned or stable is such a value, made by gathers, concatenations and
paddings (see `eliminate_stable`). Rows that go through these one by one are rows over all places of a plane; between
both ends of the chain there are two lines for each element, as around any activation, and windows stay windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Concat, Elementwise, Gather, Pad, Reshape, Slice, Transpose
from irverify.passes.lines import Relaxation, Relaxed
from irverify.passes.propagate import Interval
from irverify.regions.base import rowwise

SELECTING = (Concat, Gather, Pad, Reshape, Slice, Transpose)
"""Operators whose every result is an element of an operand, or 0."""


@dataclass(frozen=True)
class Part:
    """An activation: its flat elements `positions` stand at the flat `places` of the value."""

    activation: str
    operand: str
    places: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Mosaic:
    """A value over `operand`, in the same flat order: the element itself at the places `past`, at others activations,
    elsewhere 0."""

    operand: str
    past: Tensor
    parts: tuple[Part, ...]

    def lines(self, relaxed: Mapping[str, Relaxed], operand: Interval, shape: Sequence[int]) -> Relaxation | None:
        """The lines around the value, of `shape`, from those around its activations; None where one has no plain
        ones. `operand` gives batch, type and device."""
        found = []
        for part in self.parts:
            lines = relaxed.get(part.activation)
            if not (isinstance(lines, Relaxation) and lines.finite):
                return None
            found.append(lines)
        none = operand.lower.new_zeros(operand.lower.shape[0], operand.lower[0].numel())
        slope = none.index_fill(1, self.past, 1.0)
        sides = [
            (slope, [lines.lower_slope for lines in found]),
            (none, [lines.lower_intercept for lines in found]),
            (slope, [lines.upper_slope for lines in found]),
            (none, [lines.upper_intercept for lines in found]),
        ]
        return Relaxation(*(self._placed(base, tensors).reshape(base.shape[0], *shape) for base, tensors in sides))

    def bounds(self, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """The interval of the operand, with those of what the activations read at their places."""
        read = [results[part.operand] for part in self.parts]
        lower = self._placed(rowwise(interval.lower), [own.lower for own in read])
        upper = self._placed(rowwise(interval.upper), [own.upper for own in read])
        return Interval(lower.reshape(interval.lower.shape), upper.reshape(interval.upper.shape))

    def _placed(self, base: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """`base` `[batch, size]` with the elements of a tensor `[batch, ...]` for each activation at its places."""
        for part, tensor in zip(self.parts, tensors, strict=True):
            own = rowwise(tensor.expand(base.shape[0], *tensor.shape[1:])).index_select(1, part.positions)
            base = base.index_copy(1, part.places, own)
        return base


@dataclass(frozen=True)
class _Trace:
    """Where the elements of a value come from: `codes` `[3, *shape]` have 1 + the flat place in the value `base`, or 0
    for a zero; 1 + the number of the activation passed on the way, or 0; the flat element of that."""

    base: str
    codes: Tensor

    @property
    def plain(self) -> bool:
        return not bool(self.codes[1].any())


def mosaics(graph: Graph) -> dict[str, Mosaic]:
    """The mosaics of a graph, by name, of whose activations nobody else reads anything: rows that two readers of an
    activation ask for add up before its lines are chosen."""
    if not _gathers(graph):
        return {}
    device = graph.leaves[0].device if graph.leaves else None
    traces: dict[str, _Trace] = {}
    activations: list[Node] = []
    found = {}
    for node in graph:
        trace = _followed(node, traces, activations)
        if trace is None:
            size = torch.arange(1, node.type.size + 1, device=device).reshape(node.type.shape)
            trace = _Trace(node.name, torch.stack([size, torch.zeros_like(size), torch.zeros_like(size)]))
        elif isinstance(node.op, SELECTING) and not trace.plain:
            mosaic = _mosaic(trace, activations)
            if mosaic is not None and graph[trace.base].type.size == node.type.size:
                found[node.name] = mosaic
        traces[node.name] = trace
    return {name: mosaic for name, mosaic in found.items() if _alone(graph, name, mosaic)}


@once_a_graph
def _gathers(graph: Graph) -> bool:
    """Whether any node does: without, there are no mosaics."""
    return any(isinstance(node.op, Gather) for node in graph)


def _alone(graph: Graph, name: str, mosaic: Mosaic) -> bool:
    """Whether all that is made of the activations of a mosaic goes into it."""
    inside = {name}
    for node in reversed(graph.nodes):
        readers = graph.users(node.name)
        if readers and node.name not in graph.outputs and inside.issuperset(readers):
            inside.add(node.name)
    return all(part.activation in inside for part in mosaic.parts)


def _followed(node: Node, traces: Mapping[str, _Trace], activations: list[Node]) -> _Trace | None:
    """The trace of a value from those of its operands; None where it begins here."""
    operands = [traces[name] for name in node.inputs]
    if isinstance(node.op, Elementwise) and node.op.pieces() is not None and operands[0].plain:
        activations.append(node)
        codes = operands[0].codes.clone()
        codes[1] = len(activations)
        codes[2] = torch.arange(node.type.size, device=codes.device).reshape(node.type.shape)
        # A zero that goes through an activation is no zero any more.
        return _Trace(operands[0].base, codes) if bool((codes[0] > 0).all()) else None
    if isinstance(node.op, SELECTING) and len({operand.base for operand in operands}) == 1:
        return _Trace(operands[0].base, node.op.evaluate(*(operand.codes for operand in operands)))
    return None


def _mosaic(trace: _Trace, activations: Sequence[Node]) -> Mosaic | None:
    """The mosaic of a trace; None where an element is not at the place that it comes from."""
    codes, passed, positions = (part.reshape(-1) for part in trace.codes)
    own = torch.arange(1, codes.numel() + 1, device=codes.device)
    if not bool(((codes == own) | (codes == 0)).all()):
        return None
    parts = []
    for number in passed.unique().tolist():
        if number > 0:
            places = (passed == number).nonzero()[:, 0]
            node = activations[number - 1]
            parts.append(Part(node.name, node.inputs[0], places, positions[places]))
    past = ((codes > 0) & (passed == 0)).nonzero()[:, 0]
    return Mosaic(trace.base, past, tuple(parts))

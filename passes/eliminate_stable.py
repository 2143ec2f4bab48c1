"""Stable activations leave the graph: exact on the regions of the run, and only there (paper 1, sec. 3.2 and app. A).

An element of a piecewise linear activation is stable where its pre-activation bounds leave one piece, the same one in
every example of the batch: there it is `s x + t`. Per activation

- nothing is stable: it stays;
- everything is: `scale_shift`, the operand itself, or a constant;
- some is: the unstable elements U go through the activation, the stable ones A with s != 0 past it, the rest is
  constant: `gather(pad(concat(relu(gather(x, U)), gather(x, A))))`, plus the constants where they are not zero.
  Channels of which nothing is left are taken out whole first.

Only operators that every analysis and backend has are used. Bounds that lie within rounding of a breakpoint decide as
they stand: what that can change is rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, Node, without_dead_values
from irverify.ir.ops import Concat, Constant, Elementwise, Gather, Operator, Pad, Reshape, ScaleShift
from irverify.passes.compact import compacted
from irverify.passes.stability import stability
from irverify.pipeline.base import Rewrite
from irverify.pipeline.facts import Bounds, Stability
from irverify.pipeline.state import State

UNSTABLE, OPEN = "unstable", "open"
"""What the unstable elements of an activation are called behind its name, before and after it: one value, flat, in
order."""


@dataclass(frozen=True)
class EliminateStable(Rewrite):
    """Stable activations become affine or constant, exactly on the regions, and what that frees is left out."""

    name = "eliminate-stable"
    keeps_values = True
    on_regions = True
    compact: bool = True

    def run(self, state: State) -> Graph:
        state.given_regions(self.name)
        reserved = state.retired | {node.name for node in state.graph}
        graph = eliminated(state.graph, _certain(state), state.retired)
        return compacted(graph, reserved) if self.compact and graph is not state.graph else graph

    def carried(self, state: State, after: Graph) -> Mapping[str, Bounds]:
        """Unstable elements keep the bounds of their activation's operand and result."""
        found = {}
        for name, piece in _certain(state).items():
            open_ = (piece < 0).flatten()
            for value, role in ((state.graph[name].inputs[0], UNSTABLE), (name, OPEN)):
                helper = f"{name}.{role}"
                if helper in after and helper not in state.graph and value in state.bounds:
                    known = state.bounds[value]
                    lower, upper = (side.reshape(len(side), -1)[:, open_] for side in (known.lower, known.upper))
                    found[helper] = Bounds(lower, upper, known.source)
        return found


def _certain(state: State) -> dict[str, Tensor]:
    """For each piecewise linear activation the piece that an element is on in every example, -1 where none is."""
    certain = {}
    for node in state.graph:
        pieces = node.op.pieces() if isinstance(node.op, Elementwise) else None
        if pieces is not None:
            certain[node.name] = certain_pieces(stability(pieces, state.bounds_of(node.inputs[0])))
    return certain


def certain_pieces(labels: Stability) -> Tensor:
    """The piece that an element is on in every example, `[*shape]`; -1 where there is none."""
    first = labels.piece[0]
    return torch.where((labels.piece == first).all(0), first, -1)


def eliminated(graph: Graph, certain: Mapping[str, Tensor], reserved: Collection[str] = ()) -> Graph:
    """The graph in which the elements of an activation are on the pieces given, by the activation's name (-1: the
    activation decides); itself where nothing is given. No new value has a `reserved` name."""
    if not any(bool((piece >= 0).any()) for piece in certain.values()):
        return graph
    builder = GraphBuilder(graph.name)
    renamed: dict[str, str] = {}
    taken = {node.name for node in graph}.union(reserved)
    for node in graph:
        inputs = tuple(renamed[operand] for operand in node.inputs)
        piece = certain.get(node.name)
        if piece is None or not bool((piece >= 0).any()):
            renamed[node.name] = builder.add(node.op, *inputs, name=node.name, source=node.source)
        else:
            renamed[node.name] = _Emission(builder, node, taken).value(inputs[0], piece)
    return without_dead_values(builder.graph([renamed[output] for output in graph.outputs], graph.origin))


def lines(op: Elementwise, piece: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Slope s and intercept t of the piece `s x + t` that each element is on, `[*shape]`; of the first piece where
    none is given (-1)."""
    pieces, chosen = op.pieces(), piece.clamp(min=0).long()
    assert pieces is not None
    ends = torch.tensor(pieces.breakpoints, dtype=torch.float64)
    slopes = torch.tensor(pieces.slopes, dtype=torch.float64)
    # A piece touches the breakpoint at its left, the first one that at its right; without any there is one piece.
    nearest = (torch.arange(len(slopes)) - 1).clamp(min=0)
    intercepts = op.evaluate(ends)[nearest] - slopes * ends[nearest] if len(ends) else torch.zeros_like(slopes)
    slopes, intercepts = (side.to(device=piece.device, dtype=dtype) for side in (slopes, intercepts))
    return slopes[chosen], intercepts[chosen]


@dataclass(frozen=True)
class _Emission:
    """Adds what stands for one activation; only its last value has the activation's name."""

    builder: GraphBuilder
    node: Node
    taken: set[str]

    def value(self, operand: str, piece: Tensor) -> str:
        assert isinstance(self.node.op, Elementwise)
        slopes, intercepts = lines(self.node.op, piece, self.node.type.dtype)
        if bool((piece >= 0).all()):
            return self._affine(operand, slopes, intercepts)
        constant = (piece >= 0) & (slopes == 0)
        gone = constant & (intercepts == 0)
        rank = self.node.type.rank
        empty = gone.flatten(1).all(1) if rank > 1 else torch.zeros(1, dtype=torch.bool, device=piece.device)
        if not bool(empty.any()):
            return self._split(operand, piece, slopes, intercepts, last=True)
        channels = (~empty).nonzero().flatten()
        inner = self.add(Gather(channels, 0), operand, role="channels")
        inner = self._split(inner, piece[channels], slopes[channels], intercepts[channels], last=False)
        padded = self.add(Pad(((0, 1), *((0, 0),) * (rank - 1))), inner, role="padded")
        return self._finish(Gather(_places(channels, len(empty)), 0), padded)

    def _affine(self, operand: str, slopes: Tensor, intercepts: Tensor) -> str:
        """`s x + t`, everywhere."""
        if not bool((slopes != 0).any()):
            return self._finish(Constant(intercepts))
        scale = None if bool((slopes == 1).all()) else slopes
        shift = None if not bool((intercepts != 0).any()) else intercepts
        return operand if scale is None and shift is None else self._finish(ScaleShift(scale, shift), operand)

    def _split(self, operand: str, piece: Tensor, slopes: Tensor, intercepts: Tensor, *, last: bool) -> str:
        """Some elements through the activation, some past it; `piece` is that of `operand`."""
        shape, count = tuple(piece.shape), piece.numel()
        flat = operand if len(shape) == 1 else self.add(Reshape((count,)), operand, role="flat")
        open_, line = (piece < 0).flatten(), ((piece >= 0) & (slopes != 0)).flatten()
        through, past = open_.nonzero().flatten(), line.nonzero().flatten()
        if len(through) == count:
            return self._finish(self.node.op, operand) if last else self.add(self.node.op, operand, role="whole")
        parts = [self.add(self.node.op, self.add(Gather(through, 0), flat, role=UNSTABLE), role=OPEN)]
        if len(past):
            name = self.add(Gather(past, 0), flat, role="stable")
            steep = slopes.flatten()[past]
            if bool((steep != 1).any()):
                name = self.add(ScaleShift(steep), name, role="sloped")
            parts.append(name)
        name = parts[0] if len(parts) == 1 else self.add(Concat(0), *parts, role="parts")
        places = torch.cat([through, past])
        if len(places) < count:
            name = self.add(Pad(((0, 1),)), name, role="zero")
        shift = torch.where(piece >= 0, intercepts, 0.0)
        ends: list[Operator] = [Gather(_places(places, count), 0)]
        ends += [] if len(shape) == 1 else [Reshape(shape)]
        ends += [ScaleShift(None, shift)] if bool((shift != 0).any()) else []
        for op in ends[:-1]:
            name = self.add(op, name, role="back")
        return self._finish(ends[-1], name) if last else self.add(ends[-1], name, role="back")

    def add(self, op: Operator, *inputs: str, role: str) -> str:
        stem = f"{self.node.name}.{role}"
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}${number}"
        self.taken.add(name)
        return self.builder.add(op, *inputs, name=name, source=self.node.source)

    def _finish(self, op: Operator, *inputs: str) -> str:
        return self.builder.add(op, *inputs, name=self.node.name, source=self.node.source)


def _places(chosen: Tensor, count: int) -> Tensor:
    """Where each of `count` elements stands among those `chosen`; the place behind them for the others."""
    places = chosen.new_full((count,), len(chosen))
    places[chosen] = torch.arange(len(chosen), device=chosen.device)
    return places

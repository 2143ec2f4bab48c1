"""Stable activations leave the graph: exact on the regions of the run, and only there (paper 1, sec. 3.2 and app. A).

An element of a piecewise linear activation is stable where its pre-activation bounds leave one piece, the same one in
every example of the batch: there it is `s x + t`. Per activation

- nothing is stable: it stays;
- everything is: `scale_shift`, the operand itself, or a constant;
- some is: the unstable elements U go through the activation, the stable ones A with s != 0 past it, the rest is
  constant: `gather(pad(concat(relu(gather(x, U)), gather(x, A))))`, plus the constants where they are not zero.
  Channels of which nothing is left are taken out whole first.

Windows of a maximum pooling whose winner is certain become selections (see `winners`).

Only operators that every analysis and backend has are used. Bounds that lie within rounding of a breakpoint decide as
they stand: what that can change is rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, without_dead_values
from irverify.ir.ops import Concat, Constant, Elementwise, Gather, MaxPool, Operator, Pad, Reshape, ScaleShift
from irverify.passes.compact import compacted
from irverify.passes.stability import stability
from irverify.passes.stand_ins import OPEN, UNSTABLE, StandIn, places_among
from irverify.passes.winners import Selection, Winners, winners
from irverify.pipeline.base import Rewrite
from irverify.pipeline.facts import Bounds, Stability
from irverify.pipeline.state import State
from irverify.regions.base import rowwise

Certain: TypeAlias = "Tensor | Winners"
"""What is certain of a node: the piece of each element, `[*shape]`, -1 where none is; the winners of windows."""


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
        """What stays undecided keeps the bounds of its activation's, or pooling's, operand and result."""
        found = {}
        for name, known in _certain(state).items():
            (operand,) = state.graph[name].inputs
            for role, value, chosen in _undecided(known, operand, name):
                helper = f"{name}.{role}"
                if helper in after and helper not in state.graph and value in state.bounds:
                    bounds = state.bounds[value]
                    lower, upper = (rowwise(side)[:, chosen] for side in (bounds.lower, bounds.upper))
                    found[helper] = Bounds(lower, upper, bounds.source)
        return found


def _undecided(known: Certain, operand: str, result: str) -> Iterator[tuple[str, str, Tensor]]:
    """The values that stand for what stays undecided: their roles, and of what value they are which flat elements."""
    if isinstance(known, Winners):
        for windows, places in known.contests:
            yield f"{UNSTABLE}{places.shape[1]}", operand, places.reshape(-1)
            yield f"{OPEN}{places.shape[1]}", result, windows
    else:
        chosen = (known < 0).flatten().nonzero().flatten()
        yield UNSTABLE, operand, chosen
        yield OPEN, result, chosen


def _certain(state: State) -> dict[str, Certain]:
    """What is certain in every example, of each piecewise linear activation and maximum pooling."""
    certain: dict[str, Certain] = {}
    for node in state.graph:
        pieces = node.op.pieces() if isinstance(node.op, Elementwise) else None
        if pieces is not None:
            certain[node.name] = certain_pieces(stability(pieces, state.bounds_of(node.inputs[0])))
        elif isinstance(node.op, MaxPool):
            operand = state.graph[node.inputs[0]]
            certain[node.name] = winners(node.op, operand.type, state.bounds_of(operand.name))
    return certain


def certain_pieces(labels: Stability) -> Tensor:
    """The piece that an element is on in every example, `[*shape]`; -1 where there is none, or no example."""
    if labels.piece.shape[0] == 0:
        return labels.piece.new_full(labels.piece.shape[1:], -1)
    first = labels.piece[0]
    return torch.where((labels.piece == first).all(0), first, -1)


def eliminated(graph: Graph, certain: Mapping[str, Certain], reserved: Collection[str] = ()) -> Graph:
    """The graph in which elements of activations are on the pieces given, by the activation's name, and windows have
    the winners given; itself where nothing is given. No new value has a `reserved` name."""
    if not any(map(_says_something, certain.values())):
        return graph
    builder = GraphBuilder(graph.name)
    renamed: dict[str, str] = {}
    taken = {node.name for node in graph}.union(reserved)
    for node in graph:
        inputs = tuple(renamed[operand] for operand in node.inputs)
        known = certain.get(node.name)
        if known is None or not _says_something(known):
            renamed[node.name] = builder.add(node.op, *inputs, name=node.name, source=node.source)
        elif isinstance(known, Winners):
            renamed[node.name] = Selection(builder, node, taken).value(inputs[0], known)
        else:
            renamed[node.name] = _Pieces(builder, node, taken).value(inputs[0], known)
    return without_dead_values(builder.graph([renamed[output] for output in graph.outputs], graph.origin))


def _says_something(known: Certain) -> bool:
    return known.any if isinstance(known, Winners) else bool((known >= 0).any())


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


class _Pieces(StandIn):
    """What stands for one activation."""

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
        return self.finish(Gather(places_among(channels, len(empty)), 0), padded)

    def _affine(self, operand: str, slopes: Tensor, intercepts: Tensor) -> str:
        """`s x + t`, everywhere."""
        if not bool((slopes != 0).any()):
            return self.finish(Constant(intercepts))
        scale = None if bool((slopes == 1).all()) else slopes
        shift = None if not bool((intercepts != 0).any()) else intercepts
        return operand if scale is None and shift is None else self.finish(ScaleShift(scale, shift), operand)

    def _split(self, operand: str, piece: Tensor, slopes: Tensor, intercepts: Tensor, *, last: bool) -> str:
        """Some elements through the activation, some past it; `piece` is that of `operand`."""
        shape, count = tuple(piece.shape), piece.numel()
        flat = operand if len(shape) == 1 else self.add(Reshape((count,)), operand, role="flat")
        open_, line = (piece < 0).flatten(), ((piece >= 0) & (slopes != 0)).flatten()
        through, past = open_.nonzero().flatten(), line.nonzero().flatten()
        if len(through) == count:
            return self.finish(self.node.op, operand) if last else self.add(self.node.op, operand, role="whole")
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
        ends: list[Operator] = [Gather(places_among(places, count), 0)]
        ends += [] if len(shape) == 1 else [Reshape(shape)]
        ends += [ScaleShift(None, shift)] if bool((shift != 0).any()) else []
        for op in ends[:-1]:
            name = self.add(op, name, role="back")
        return self.finish(ends[-1], name) if last else self.add(ends[-1], name, role="back")

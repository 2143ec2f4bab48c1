"""A network whose activations are mixed with their chords: what an attack descends on before it does on the network.

Where an activation is flat, its gradient says nothing about what lies behind the flat part; its chord over the
pre-activation bounds does. The minimum of a margin over the network of chords is the optimal perturbation of the
convex relaxation with parallel lines (paper 2, eq. 8), and fading the chords out leads from there to a point of the
network itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, Node, rewrite
from irverify.ir.ops import Add, Elementwise, Mul, Operand
from irverify.pipeline.facts import Bounds


class _Chord(NamedTuple):
    """The chords of one activation, `[examples, *shape]`; all zero for an example without finite bounds, where `mixed`
    `[examples, 1, ...]` is 0 too."""

    slope: Tensor
    offset: Tensor
    mixed: Tensor


class Chords:
    """`graph` with every activation f replaced by `(1 - share) f(x) + share chord(x)`, where the chord meets f at both
    ends of the pre-activation bounds.

    `bounds` are those of each example (a batch of one), by the name of the value; an activation whose operand has none,
    or infinite ones, stays as it is for that example. `any` says whether there is a chord at all. What is mixed comes
    as runtime operands, see `operands`.
    """

    def __init__(self, graph: Graph, bounds: Sequence[Mapping[str, Bounds]]) -> None:
        self._bounds = bounds
        self._chords: dict[tuple[str, str, str], _Chord] = {}
        self.graph = rewrite(graph, self._mix)

    @property
    def any(self) -> bool:
        return any(bool(chord.mixed.any()) for chord in self._chords.values())

    def operands(self, share: float, owner: Tensor) -> dict[str, Tensor]:
        """What `graph` needs beside its inputs, where row b of the batch belongs to example `owner[b]` and chords have
        this share, in [0, 1]."""
        result = {}
        for (own, slope, offset), chord in self._chords.items():
            result[own] = (1 - share * chord.mixed).expand_as(chord.slope)[owner]
            result[slope], result[offset] = (share * chord.slope)[owner], (share * chord.offset)[owner]
        return result

    def _mix(self, builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        own = builder.add(node.op, *inputs, name=node.name, source=node.source)
        if not isinstance(node.op, Elementwise):
            return own
        chords = [_chord(node, bounds.get(node.inputs[0])) for bounds in self._bounds]
        if not any(bool(chord.mixed.any()) for chord in chords):
            return own
        own_share, slope, offset = (
            builder.add(Operand(node.type), name=f"{node.name}.{part}") for part in ("own", "slope", "offset")
        )
        self._chords[own_share, slope, offset] = _Chord(*map(torch.cat, zip(*chords, strict=True)))
        line = builder.add(Add(), builder.add(Mul(), slope, *inputs), offset)
        return builder.add(Add(), builder.add(Mul(), own_share, own), line)


def _chord(node: Node, bounds: Bounds | None) -> _Chord:
    """The chord of one example."""
    nothing = torch.zeros((1, *node.type.shape), dtype=node.type.dtype)
    unmixed = nothing.new_zeros((1, *(1,) * len(node.type.shape)))
    if bounds is None:
        return _Chord(nothing, nothing, unmixed)
    lower, upper = bounds.lower[:1].to(nothing.dtype), bounds.upper[:1].to(nothing.dtype)
    low, high = node.op.evaluate(lower), node.op.evaluate(upper)
    if not all(bool(end.isfinite().all()) for end in (lower, upper, low, high)):
        return _Chord(nothing, nothing, unmixed)
    width = upper - lower
    slope = torch.where(width > 0, (high - low) / torch.where(width > 0, width, torch.ones_like(width)), nothing)
    return _Chord(slope, low - slope * lower, torch.ones_like(unmixed))

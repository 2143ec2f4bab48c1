"""A network whose activations are mixed with their chords: what an attack descends on before it does on the network.

Where an activation is flat, its gradient says nothing about what lies behind the flat part; its chord over the
pre-activation bounds does. The minimum of a margin over the network of chords is the optimal perturbation of the
convex relaxation with parallel lines (paper 2, eq. 8), and fading the chords out leads from there to a point of the
network itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, Node, rewrite
from irverify.ir.ops import Add, Elementwise, ScaleShift
from irverify.pipeline.facts import Bounds


class Mixed:
    """`graph` with every activation f replaced by `(1 - share) f(x) + share chord(x)`, where the chord meets f at both
    ends of the pre-activation bounds.

    `bounds` are those of one example, by the name of the value; activations whose operand has none, or infinite ones,
    stay as they are. `share` starts at 1. `any` says whether there is a chord at all.
    """

    def __init__(self, graph: Graph, bounds: Mapping[str, Bounds]) -> None:
        self._bounds = bounds
        self._share: dict[torch.dtype, tuple[Tensor, Tensor]] = {}
        self._at = 1.0
        self.graph = rewrite(graph, self._mix)

    @property
    def any(self) -> bool:
        return bool(self._share)

    def fade(self, share: float) -> None:
        """Sets the share of the chords, in [0, 1]."""
        self._at = share
        for chord, own in self._share.values():
            chord.fill_(share)
            own.fill_(1 - share)

    def _mix(self, builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        own = builder.add(node.op, *inputs, name=node.name, source=node.source)
        bounds = self._bounds.get(node.inputs[0]) if isinstance(node.op, Elementwise) else None
        if bounds is None or not bool((bounds.lower.isfinite() & bounds.upper.isfinite()).all()):
            return own
        dtype = node.type.dtype
        lower, upper = bounds.lower[:1].to(dtype), bounds.upper[:1].to(dtype)
        low, high = node.op.evaluate(lower), node.op.evaluate(upper)
        width = upper - lower
        slope = torch.where(width > 0, (high - low) / torch.where(width > 0, width, torch.ones_like(width)), 0.0)
        if dtype not in self._share:
            self._share[dtype] = lower.new_full((), self._at), lower.new_full((), 1 - self._at)
        share, rest = self._share[dtype]
        chord = builder.add(ScaleShift(slope[0], (low - slope * lower)[0]), *inputs)
        return builder.add(Add(), builder.add(ScaleShift(share), chord), builder.add(ScaleShift(rest), own))

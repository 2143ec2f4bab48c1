"""Stability of piecewise linear activations: which piece is certain (paper 1, sec. 3.3).

A ReLU with pre-activation bounds `[l, u]` is active where l >= 0, inactive where u <= 0, else unstable. In general
piece k between the breakpoints `b_k-1` and `b_k` is certain where `b_k-1 <= l` and `u <= b_k`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from irverify.ir.ops import Elementwise
from irverify.ir.ops.base import Pieces
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Bounds, Facts, Stability
from irverify.pipeline.state import State


@dataclass(frozen=True)
class StabilityAnalysis(Analysis):
    """Which piece of each piecewise linear activation is certain: active, inactive or unstable."""

    name = "stability"

    def run(self, state: State) -> Facts:
        labels = {}
        for node in state.graph:
            pieces = node.op.pieces() if isinstance(node.op, Elementwise) else None
            if pieces is not None:
                labels[node.name] = stability(pieces, state.bounds_of(node.inputs[0]))
        counts = [entry.counts() for entry in labels.values()]
        names = ("active", "inactive", "unstable")
        totals = {name: sum(count[index] for count in counts) for index, name in enumerate(names)}
        return Facts(stability=labels, statistics=totals)


def stability(pieces: Pieces, bounds: Bounds) -> Stability:
    """The certain piece of each element, from its pre-activation bounds `[batch, *shape]`; where two are (on a
    breakpoint), the right one. Bounds that are NaN leave an element unstable."""
    piece = torch.full_like(bounds.lower, -1, dtype=torch.int8, requires_grad=False)
    ends = (-torch.inf, *pieces.breakpoints, torch.inf)
    for index in range(len(pieces.slopes)):
        certain = (bounds.lower >= ends[index]) & (bounds.upper <= ends[index + 1])
        piece = torch.where(certain, torch.full_like(piece, index), piece)
    return Stability(piece, pieces.slopes)

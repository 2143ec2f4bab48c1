"""Batch normalisation folded into the layer before it.

In evaluation mode `y = s x + t` with `s = weight / sqrt(variance + epsilon)` and `t = bias - s mean`, per channel.
Rules:

1. after Linear, Conv or ConvTranspose that nobody else reads: scale and shift go into weight and bias;
2. elsewhere: a `scale_shift`, which `fuse-linear` may absorb into a neighbour.

The new parameters are derived from the old ones and follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from irverify.ir.graph import Graph
from irverify.ir.ops import BatchNorm, ScaleShift
from irverify.ir.params import Derived, Param
from irverify.passes.absorb import absorb_after
from irverify.passes.rewriting import Replacement, Site, joined_source, rewritten
from irverify.pipeline.base import Rewrite
from irverify.pipeline.state import State


@dataclass(frozen=True)
class FoldBatchnorm(Rewrite):
    """Fold batch normalisation into the layer before it; elsewhere make it a scale_shift."""

    name = "fold-batchnorm"
    keeps_values = True

    def run(self, state: State) -> Graph:
        return rewritten(state.graph, _fold, state.retired)


def _fold(site: Site) -> Replacement | None:
    op = site.op
    if not isinstance(op, BatchNorm):
        return None
    scale, shift = scale_and_shift(op, site.node.type.rank)
    maker = site.maker()
    folded = absorb_after(maker.op, scale, shift, site.node.type) if site.sole_use(maker.name) else None
    if folded is None:
        return Replacement(ScaleShift(scale, shift), site.inputs)
    return Replacement(folded, maker.inputs, joined_source(maker, site.node))


def scale_and_shift(op: BatchNorm, rank: int) -> tuple[Param, Param]:
    """The factor and constant of each channel, `[channels, 1, ...]` to broadcast over a value of that rank."""
    affine = op.parameters()
    names, sources = tuple(affine), tuple(affine.values())
    return (
        Derived(partial(_part, BatchNorm.scale, names, op.epsilon, rank), *sources),
        Derived(partial(_part, BatchNorm.shift, names, op.epsilon, rank), *sources),
    )


def _part(part: object, names: tuple[str, ...], epsilon: float, rank: int, *tensors: Tensor) -> Tensor:
    op = BatchNorm(epsilon=epsilon, **dict(zip(names, tensors, strict=True)))
    vector = op.scale() if part is BatchNorm.scale else op.shift()
    return vector.reshape(-1, *(1,) * (rank - 1))

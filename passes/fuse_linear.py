"""Neighbouring affine maps composed into one. Rules, each only where nobody else reads the inner value:

1. `linear(linear(x))` is one `linear`, where that is not more work than the two;
2. `scale_shift` or `neg` after `linear`, `conv` or `conv_transpose` goes into weight and bias; before it likewise,
   where no padding stands between (see `absorb`); two of them after each other are one;
3. elision: `spec(linear(x))` is one `spec` with the layer as part of it (paper 4, eq. 9: `C W` and `C b + d`,
   computed for each example when an analysis runs). It is done whatever its size, and whoever else reads the layer,
   since bounds get tighter.

The new parameters are derived from the old ones and follow them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from irverify.ir.graph import Graph
from irverify.ir.ops import Linear, Operator, Spec
from irverify.ir.params import Derived, Param, value
from irverify.passes.absorb import absorb_after, absorb_before, as_scale_shift, merged
from irverify.passes.rewriting import Replacement, Site, joined_source, rewritten
from irverify.pipeline.base import Rewrite
from irverify.pipeline.state import State


@dataclass(frozen=True)
class FuseLinear(Rewrite):
    """Compose neighbouring affine maps, and the last layer with the specification (elision)."""

    name = "fuse-linear"
    keeps_values = True
    elide: bool = True

    def run(self, state: State) -> Graph:
        return rewritten(state.graph, self._fuse, state.retired)

    def _fuse(self, site: Site) -> Replacement | None:
        if isinstance(site.op, Spec):
            return _into_spec(site, site.op) if self.elide else None
        if not site.inputs or not site.sole_use(site.inputs[0]):
            return None
        fused = composed(site)
        if fused is None:
            return None
        return Replacement(fused, site.maker().inputs, joined_source(site.maker(), site.node))


def composed(site: Site) -> Operator | None:
    """`site.op` after the operator that makes its input, as one operator."""
    inner, outer, result = site.maker().op, site.op, site.node.type
    if isinstance(outer, Linear) and isinstance(inner, Linear):
        return _linear_pair(inner, outer)
    after = as_scale_shift(outer, result)
    before = as_scale_shift(inner, site.maker().type)
    if after is not None and before is not None:
        return merged(before, after)
    if after is not None:
        return absorb_after(inner, after.scale, after.shift, result)
    if before is not None:
        return absorb_before(outer, before.scale, before.shift, site.maker().type)
    return None


def _linear_pair(inner: Linear, outer: Linear) -> Linear | None:
    (middle, entries), results = value(inner.weight).shape, value(outer.weight).shape[0]
    if results * entries > results * middle + middle * entries:
        return None
    return Linear(Derived(torch.matmul, outer.weight, inner.weight), _composed_bias(inner, outer.weight, outer.bias))


def _composed_bias(inner: Linear, weight: Param, bias: Param | None) -> Param | None:
    """`W_2 b_1 + b_2`."""
    if inner.bias is None:
        return bias
    through = Derived(torch.mv, weight, inner.bias)
    return through if bias is None else Derived(torch.add, through, bias)


def _into_spec(site: Site, spec: Spec) -> Replacement | None:
    maker = site.maker()
    layer = maker.op
    if not isinstance(layer, Linear):
        return None
    if spec.weight is None:
        if spec.bias is not None:
            return None
        elided = Spec(layer.weight, layer.bias)
    else:
        pair = _linear_pair(layer, Linear(spec.weight, spec.bias)) if site.sole_use(maker.name) else None
        if pair is None:
            return None
        elided = Spec(pair.weight, pair.bias)
    return Replacement(elided, (maker.inputs[0], *site.inputs[1:]), joined_source(maker, site.node))

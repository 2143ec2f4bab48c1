"""What weights read, reduced to what they use. The rules are for a `linear` along the last axis, for a `spec` with its
elided layer, and for the channels of a `conv` in one group:

1. of a gather that repeats more than it drops: the columns of one element added up;
2. of a pad along that axis: the columns of the padding dropped;
3. columns of zeros: only the rest is gathered and read;
4. `linear` of a concat that has affine parts: a sum of a `linear` for each part, where these compose, or where a part
   can be pulled back through a chain then (`affine_chains`);
5. `linear` of a sum of `linear`s: a sum of their compositions, where that is not more work;
6. a sum of `linear`s of one value: one `linear`.

Zeros are taken for good: a weight that was zero when its column was dropped does not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Add, Concat, Constant, Conv, Gather, Input, Linear, Pad, Spec
from irverify.ir.ops.base import normalize_axis
from irverify.ir.params import Derived, Param, value
from irverify.passes.affine_chains import waits_for_a_split
from irverify.passes.gathers import gather_axis
from irverify.passes.rewriting import Replacement, Site, joined_source

Reader = Linear | Conv | Spec


def reader_of(site: Site) -> tuple[Reader, Param, int] | None:
    """The operator, its weight (columns on axis 1), and the axis of the operand that the columns stand for."""
    op = site.op
    if isinstance(op, Conv):
        return (op, op.weight, 0) if op.groups == 1 else None
    if isinstance(op, Linear | Spec) and op.weight is not None:
        return op, op.weight, site.type(site.inputs[0]).rank - 1
    return None


def read_less(site: Site) -> Replacement | None:
    """Rules 1 to 3."""
    found = reader_of(site)
    if found is None:
        return None
    op, weight, axis = found
    maker = site.maker()
    if isinstance(maker.op, Gather) and gather_axis(maker.op, maker.type) == axis:
        operand = site.type(maker.inputs[0])
        if operand.shape[axis] <= maker.type.shape[axis]:
            summed = Derived(partial(_summed, operand.shape[axis]), weight, maker.op.indices)
            return _reading(site, op.replace(weight=summed), maker.inputs[0], maker)
    if isinstance(maker.op, Pad) and min(maker.op.padding[axis]) >= 0:
        elsewhere = any(pair != (0, 0) for place, pair in enumerate(maker.op.padding) if place != axis)
        if not elsewhere:
            start = maker.op.padding[axis][0]
            inner = Derived(partial(_between, start, start + site.type(maker.inputs[0]).shape[axis]), weight)
            return _reading(site, op.replace(weight=inner), maker.inputs[0], maker)
    return _without_zero_columns(site, op, weight, axis)


def _reading(site: Site, op: Reader, operand: str, *others: Node) -> Replacement:
    return Replacement(op, (operand, *site.inputs[1:]), joined_source(*others, site.node))


def _without_zero_columns(site: Site, op: Reader, weight: Param, axis: int) -> Replacement | None:
    matrix = value(weight).detach()
    used = (matrix != 0).transpose(0, 1).flatten(1).any(1).nonzero().flatten()
    if len(used) == matrix.shape[1] or isinstance(site.maker().op, Input):
        return None
    if not len(used):
        if matrix.shape[1] == 1:
            return None
        used = used.new_zeros(1)  # one element is read, for its type; constants are another rule's matter
    name = site.add(Gather(used, axis), site.inputs[0], role="read")
    return _reading(site, op.replace(weight=Derived(_columns, weight, used)), name)


def split_sums(site: Site) -> Replacement | None:
    """Rules 4 and 5."""
    if not isinstance(site.op, Linear):
        return None
    old = site.graph[site.node.inputs[0]]
    waiting = isinstance(old.op, Concat) and any(
        waits_for_a_split(site.graph, site.graph[name]) for name in old.inputs
    )
    if not (waiting or site.sole_use(site.inputs[0])):
        return None
    maker, axis = site.maker(), site.type(site.inputs[0]).rank - 1
    if isinstance(maker.op, Concat) and normalize_axis(maker.op.axis, maker.type.rank) == axis:
        parts = [site.node_of(name) for name in maker.inputs]
        ends = torch.tensor([0, *(part.type.shape[axis] for part in parts)]).cumsum(0).tolist()
        weights: list[Param] = [Derived(partial(_between, *ends[k : k + 2]), site.op.weight) for k in range(len(parts))]
        if not waiting and not any(_composes(site, part, weight) for part, weight in zip(parts, weights, strict=True)):
            return None
        return _sum_of(site, weights, maker.inputs)
    if isinstance(maker.op, Add) and len(maker.inputs) > 1:
        inner = [site.node_of(name) for name in maker.inputs]
        if not all(isinstance(part.op, Linear) and site.sole_use(part.name) for part in inner):
            return None
        outer, rows = value(site.op.weight), len(value(site.op.weight))
        reads = [part.op.weight for part in inner if isinstance(part.op, Linear)]
        before = outer.numel() + sum(value(weight).numel() for weight in reads)
        if sum(rows * value(weight).shape[1] for weight in reads) > before:
            return None
        return _sum_of(site, [site.op.weight] * len(inner), maker.inputs)
    return None


def _composes(site: Site, part: Node, weight: Param) -> bool:
    if isinstance(part.op, Constant):
        return True
    if not (isinstance(part.op, Linear) and site.sole_use(part.name)):
        return False
    rows, inner = len(value(weight)), value(part.op.weight)
    return rows * inner.shape[1] <= rows * inner.shape[0] + inner.numel()


def _sum_of(site: Site, weights: Sequence[Param], operands: Sequence[str]) -> Replacement:
    """`sum_k W_k x_k + b`; the bias goes with the first."""
    assert isinstance(site.op, Linear)
    bias = site.op.bias
    terms = [
        site.add(Linear(weight, bias if place == 0 else None), name, role=f"term{place}")
        for place, (weight, name) in enumerate(zip(weights, operands, strict=True))
    ]
    return Replacement(Add(), tuple(terms), joined_source(site.maker(), site.node))


def merge_terms(site: Site) -> Replacement | None:
    """Rule 6: of the terms of a sum, two that are `linear`s of one value become one."""
    if not isinstance(site.op, Add) or len(site.inputs) < 2:
        return None
    first: dict[str, str] = {}
    for name in site.inputs:
        maker = site.node_of(name)
        if not (isinstance(maker.op, Linear) and site.sole_use(name)):
            continue
        other = first.setdefault(maker.inputs[0], name)
        if other != name:
            merged = site.add(_added(site.node_of(other), maker), maker.inputs[0], role="sum")
            rest = tuple(term for term in site.inputs if term not in (name, other))
            return Replacement(Add(), (merged, *rest), site.node.source)
    return None


def _added(first: Node, second: Node) -> Linear:
    one, two = first.op, second.op
    assert isinstance(one, Linear) and isinstance(two, Linear)
    bias = one.bias if two.bias is None else two.bias
    if one.bias is not None and two.bias is not None:
        bias = Derived(torch.add, one.bias, two.bias)
    return Linear(Derived(torch.add, one.weight, two.weight), bias)


def _summed(extent: int, weight: Tensor, indices: Tensor) -> Tensor:
    """Column k of the result: the sum of the columns that read element k."""
    zeros = weight.new_zeros((weight.shape[0], extent, *weight.shape[2:]))
    return zeros.index_add(1, indices, weight)


def _between(start: int, stop: int, weight: Tensor) -> Tensor:
    return weight[:, start:stop]


def _columns(weight: Tensor, indices: Tensor) -> Tensor:
    return weight.index_select(1, indices)

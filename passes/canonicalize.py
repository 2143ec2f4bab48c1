"""One way to say one thing: constants folded, identities and dead values gone, neighbours of one kind merged. Rules:

1. an operator on constants is a constant (which follows the parameters it was made of);
2. identity, cast to the same type, reshape, transpose, expand, slice and pad that change nothing, a sum or
   concatenation of one value, `clip(-inf, inf)`, first power, slope 1: gone;
3. reshape of reshape, transpose of transpose, expand of expand, neg of neg: one (or none);
4. add, sub, mul, div with a constant: `scale_shift`; matmul with a constant: `const_matmul`;
5. `scale_shift` or neg of `scale_shift`: one;
6. add of add, concat of concat along the same axis: one, where nobody else reads the inner one;
7. values that no output needs are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.ir.ops import (
    Add,
    Cast,
    Clip,
    Concat,
    Constant,
    ConstMatMul,
    Div,
    Expand,
    Identity,
    LeakyRelu,
    MatMul,
    Mul,
    Neg,
    Operator,
    Pad,
    Pow,
    Reshape,
    ScaleShift,
    Slice,
    Sub,
    Transpose,
)
from irverify.ir.ops.base import normalize_axis
from irverify.ir.params import Derived, Param, value
from irverify.passes.absorb import as_scale_shift, merged
from irverify.passes.rewriting import Replacement, Site, joined_source, rewritten
from irverify.pipeline.base import Rewrite
from irverify.pipeline.state import State


@dataclass(frozen=True)
class Canonicalize(Rewrite):
    """Fold constants, drop identities and dead values, merge neighbours that say one thing."""

    name = "canonicalize"
    keeps_values = True

    def run(self, state: State) -> Graph:
        return rewritten(state.graph, canonical, state.retired)


def canonical(site: Site) -> Replacement | str | None:
    for rule in (_fold_constants, _drop_identity, _with_constant, _merge_moves, _merge_scale_shifts, _flatten):
        result = rule(site)
        if result is not None:
            return result
    return None


def constant_of(site: Site, index: int) -> Param | None:
    """An input as a parameter that broadcasts to its shape, where it is a constant or the expansion of one."""
    maker = site.maker(index)
    if isinstance(maker.op, Expand):
        maker = site.node_of(maker.inputs[0])
    return maker.op.tensor if isinstance(maker.op, Constant) else None


def _fold_constants(site: Site) -> Replacement | None:
    # The expansion of a constant is left to its reader, which seldom needs the large tensor.
    if not site.inputs or isinstance(site.op, Expand):
        return None
    constants = [constant_of(site, index) for index in range(len(site.inputs))]
    if any(constant is None for constant in constants):
        return None
    shapes = tuple(site.type(name).shape for name in site.inputs)
    fields = site.op.parameters()
    sources = [constant for constant in constants if constant is not None]
    function = partial(_evaluated, site.op, shapes, tuple(fields))
    return Replacement(Constant(Derived(function, *sources, *fields.values())), ())


def _evaluated(op: Operator, shapes: tuple[tuple[int, ...], ...], fields: tuple[str, ...], *tensors: Tensor) -> Tensor:
    operands = [tensor.expand(shape)[None] for tensor, shape in zip(tensors, shapes, strict=False)]
    changed = dict(zip(fields, tensors[len(shapes) :], strict=True))
    return op.replace(**changed).evaluate(*operands)[0]


def _drop_identity(site: Site) -> str | None:
    if not site.inputs:
        return None
    return site.inputs[0] if _changes_nothing(site.op, site) else None


def _changes_nothing(op: Operator, site: Site) -> bool:
    if isinstance(op, Reshape | Expand | Slice | Pad | Cast):
        # Each of these with a result of the operand's type keeps every element where it is.
        cropped = isinstance(op, Pad) and any(before or after for before, after in op.padding)
        return site.node.type == site.type(site.inputs[0]) and not cropped
    if isinstance(op, Transpose):
        return op.permutation == tuple(range(len(op.permutation)))
    if isinstance(op, Add | Concat):
        return len(site.inputs) == 1
    if isinstance(op, ScaleShift):
        return op.scale is None and op.shift is None
    if isinstance(op, Clip):
        return op.lower == -math.inf and op.upper == math.inf
    first_power, slope_one = isinstance(op, Pow) and op.exponent == 1, isinstance(op, LeakyRelu) and op.slope == 1
    return isinstance(op, Identity) or first_power or slope_one


def _with_constant(site: Site) -> Replacement | None:
    if len(site.inputs) != 2 or type(site.op) not in _BINARY:
        return None
    left, right = constant_of(site, 0), constant_of(site, 1)
    if (left is None) == (right is None):
        return None
    constant = left if right is None else right
    assert constant is not None
    op = _BINARY[type(site.op)](constant, left is not None, site)
    return None if op is None else Replacement(op, (site.inputs[1 if left is not None else 0],))


def _add_constant(constant: Param, on_the_left: bool, site: Site) -> Operator:
    return ScaleShift(None, constant)


def _sub_constant(constant: Param, on_the_left: bool, site: Site) -> Operator:
    if on_the_left:
        return ScaleShift(torch.tensor(-1.0, dtype=site.node.type.dtype), constant)
    return ScaleShift(None, Derived(torch.neg, constant))


def _mul_constant(constant: Param, on_the_left: bool, site: Site) -> Operator:
    return ScaleShift(constant)


def _div_constant(constant: Param, on_the_left: bool, site: Site) -> Operator | None:
    if on_the_left or not bool(value(constant).reciprocal().isfinite().all()):
        return None
    return ScaleShift(Derived(torch.reciprocal, constant))


def _matmul_constant(constant: Param, on_the_left: bool, site: Site) -> Operator:
    shape = site.type(site.inputs[0 if on_the_left else 1]).shape
    weight = constant if tuple(value(constant).shape) == shape else Derived(partial(_expanded, shape), constant)
    return ConstMatMul(weight, left=on_the_left)


def _expanded(shape: tuple[int, ...], tensor: Tensor) -> Tensor:
    return tensor.expand(shape)


_BINARY: dict[type[Operator], Callable[[Param, bool, Site], Operator | None]] = {
    Add: _add_constant,
    Sub: _sub_constant,
    Mul: _mul_constant,
    Div: _div_constant,
    MatMul: _matmul_constant,
}


def _merge_moves(site: Site) -> Replacement | str | None:
    op = site.op
    if not isinstance(op, Reshape | Transpose | Expand | Neg):
        return None
    maker = site.maker()
    inner = maker.op
    if isinstance(op, Neg) and isinstance(inner, Neg):
        return maker.inputs[0]
    source = joined_source(maker, site.node)
    if isinstance(op, Reshape | Expand) and type(inner) is type(op):
        return Replacement(op, maker.inputs, source)
    if isinstance(op, Transpose) and isinstance(inner, Transpose):
        return Replacement(Transpose(tuple(inner.permutation[axis] for axis in op.permutation)), maker.inputs, source)
    return None


def _merge_scale_shifts(site: Site) -> Replacement | None:
    second = as_scale_shift(site.op, site.node.type)
    if second is None or not site.sole_use(site.inputs[0]):
        return None
    maker = site.maker()
    first = as_scale_shift(maker.op, maker.type)
    if first is None or (isinstance(site.op, Neg) and isinstance(maker.op, Neg)):
        return None
    return Replacement(merged(first, second), maker.inputs, joined_source(maker, site.node))


def _flatten(site: Site) -> Replacement | None:
    """Sums in sums and concatenations in concatenations along one axis."""
    if not isinstance(site.op, Add | Concat):
        return None
    parts: list[str] = []
    for name in site.inputs:
        inner = site.node_of(name)
        parts.extend(inner.inputs if _nests(inner.op, site) and site.sole_use(name) else [name])
    return None if tuple(parts) == site.inputs else Replacement(site.op, tuple(parts))


def _nests(inner: Operator, site: Site) -> bool:
    if isinstance(site.op, Add):
        return isinstance(inner, Add)
    rank = site.node.type.rank
    assert isinstance(site.op, Concat)
    return isinstance(inner, Concat) and normalize_axis(inner.axis, rank) == normalize_axis(site.op.axis, rank)

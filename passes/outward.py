"""Intervals that hold in real arithmetic: `ibp` in which every rounding error is paid for before a bound is used.

The rules of an interval analysis are exact in real arithmetic and are evaluated in floating point. A computed sum of n
products differs from the real one by at most `gamma_n = n u / (1 - n u)` times the sum of their magnitudes (Higham
2002, sec. 3.1), so that for an affine map and `m = max(|l|, |u|)`

    l'' = l' - 2 gamma (|W| m + |b|)        u'' = u' + 2 gamma (|W| m + |b|)

and what is widened here goes through the rules behind it, which amplify it as the network does. That makes monotone but
discontinuous operators safe too: they are evaluated at ends that are certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import (
    Abs,
    Add,
    BatchNorm,
    Cast,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Div,
    Elementwise,
    Exp,
    Expand,
    Gather,
    Identity,
    Input,
    Linear,
    LinearOp,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Operator,
    Pad,
    Pow,
    Relu,
    Reshape,
    ScaleShift,
    Sigmoid,
    Slice,
    Softmax,
    Spec,
    Step,
    Sub,
    Transpose,
    Trunc,
)
from irverify.ir.params import value
from irverify.passes.ibp import IBP
from irverify.passes.interval import product
from irverify.passes.propagate import Interval, interval_facts
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

EXACT = (
    Abs, Cast, Clip, Concat, Expand, Gather, Identity, Maximum, MaxPool, Minimum, Neg, Pad, Relu, Reshape, Slice, Step,
    Transpose, Trunc,
)  # fmt: skip
"""Operators that floating point evaluates without an error."""
EXTRA = 16
"""Roundings allowed for beyond one for each term of a sum: halving, adding, and functions of the system's library."""


@dataclass(frozen=True)
class OutwardIbp(Analysis):
    """Bounds by interval bound propagation, rounded outward at every operator."""

    name = "ibp-outward"

    def run(self, state: State) -> Facts:
        return interval_facts(state, IBP, self.name, outward)


def outward(node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
    """`interval`, a result of the rule of `node` on `results`, widened by what rounding may have done to it."""
    if isinstance(node.op, Input):
        # Two tensors, even for a single point: what is computed from an exact one would be taken as exact too.
        return Interval(interval.lower, interval.upper.clone()) if interval.exact else interval
    if interval.exact or isinstance(node.op, EXACT):
        return interval
    operands = [results[name] for name in node.inputs]
    roundings = _terms(node.op, operands) + EXTRA
    slack = roundings * torch.finfo(interval.lower.dtype).eps * _size(node, interval, operands)
    lower = interval.lower - slack
    return Interval(lower.clamp(min=0) if _nonnegative(node, operands) else lower, interval.upper + slack)


def _terms(op: Operator, operands: list[Interval]) -> int:
    """How many products one element of the result adds up, at most."""
    if isinstance(op, Linear | Conv):
        return value(op.weight).shape[1:].numel()
    if isinstance(op, ConvTranspose):
        return value(op.weight)[:, 0].numel()
    if isinstance(op, Add | Sub | ScaleShift | BatchNorm | Elementwise | Mul | Div):
        return len(operands)
    return sum(operand.lower[0].numel() for operand in operands)


def _nonnegative(node: Node, operands: list[Interval]) -> bool:
    """Whether the result cannot be negative whatever the operands are within their bounds: rounding keeps that."""
    op = node.op
    if isinstance(op, Exp | Sigmoid | Softmax):
        return True
    if isinstance(op, Pow):
        return op.exponent % 2 == 0 or bool((operands[0].lower >= 0).all())
    if isinstance(op, Mul) and node.inputs[0] == node.inputs[1]:
        return True
    sums = isinstance(op, LinearOp) and op.nonnegative
    keeps_sign = sums or isinstance(op, Mul | Div | MatMul)
    return keeps_sign and all(bool((operand.lower >= 0).all()) for operand in operands)


def _size(node: Node, interval: Interval, operands: list[Interval]) -> Tensor:
    """What the rounding errors of a node are relative to: the sum of the magnitudes of what it adds up."""
    op, ends = node.op, [_magnitude(operand) for operand in operands]
    if isinstance(op, LinearOp):
        offset = op.offset(len(node.type.shape))
        total = op.apply_abs(*ends)
        return total if offset is None else total + offset.abs()
    if isinstance(op, MatMul):
        return torch.matmul(*ends)
    if isinstance(op, Spec):
        # |C| (|W| x + |b|) + |d|, by the operator itself on magnitudes
        positive = op.replace(**{name: value(tensor).abs() for name, tensor in op.parameters().items()})
        matrix, constant = positive.affine(ends[1], ends[2])
        return product(matrix, ends[0]) + constant
    if isinstance(op, Softmax):  # its rule subtracts logarithms of the size of the operand
        return 1 + ends[0].amax(dim=tuple(range(1, ends[0].ndim)), keepdim=True).expand_as(interval.lower)
    return _magnitude(interval)


def _magnitude(interval: Interval) -> Tensor:
    return torch.maximum(interval.lower.abs(), interval.upper.abs())

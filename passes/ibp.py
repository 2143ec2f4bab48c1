"""Interval bound propagation with centre and radius (paper 4, eq. 6 and 7).

For an affine map `y = W x + b` on the box `[l, u]`:

    mu = (u + l) / 2     r = (u - l) / 2     mu' = W mu + b     r' = |W| r     l' = mu' - r'     u' = mu' + r'

which takes two products where naive interval arithmetic takes four. Everything else goes by the rules of `interval`,
and so do affine maps whose entries are all nonnegative: at both ends they are exact and cost no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import ConstMatMul, Conv, ConvTranspose, Linear, LinearOp, Spec
from irverify.ir.ops.base import param_value
from irverify.ir.params import value
from irverify.ir.recording import recorded
from irverify.kernels.intervals import around, dense, interval, spec
from irverify.kernels.native import watched
from irverify.passes.interval import INTERVAL, ends, product, spec_rows
from irverify.passes.propagate import Interval, IntervalRule, Spent, interval_facts
from irverify.passes.rules import RuleTable
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

IBP: RuleTable[IntervalRule] = RuleTable("ibp", base=INTERVAL)


@dataclass(frozen=True)
class Ibp(Analysis):
    """Bounds by interval bound propagation: centre and radius, two products a layer."""

    name = "ibp"
    single_walk = True

    def run(self, state: State) -> Facts:
        return interval_facts(state, IBP, self.name)


@IBP.rule(Linear, ConstMatMul, Conv, ConvTranspose, LinearOp)
def affine(node: Node, *operands: Interval) -> Interval:
    """Centre and radius through one product each (paper 4, eq. 6)."""
    op = node.op
    assert isinstance(op, LinearOp)
    if op.nonnegative:
        return ends(node, *operands)
    if isinstance(op, Conv | Linear) and (little := _little(op, *operands)) is not None:
        return little
    centers, radii = zip(*map(_halves, operands), strict=True)
    radius = op.apply_abs(*radii)
    del radii
    center = op.evaluate(*centers)
    followed = recorded(center, radius) or watched() or torch._C._are_functorch_transforms_active()
    if isinstance(op, Conv | Linear) and not followed and center.dtype == radius.dtype:  # which are nobody else's
        return Interval(radius, center) if around(center, radius) else Interval(center - radius, center.add_(radius))
    return Interval(center - radius, center + radius)


def _little(op: Conv | Linear, operand: Interval) -> Interval | None:
    """The same for a convolution with little to do, or a dense layer of few examples, in compiled code."""
    weight, bias = value(op.weight), None if op.bias is None else value(op.bias)
    if recorded(*operand, weight, bias) or torch.is_autocast_enabled("cpu"):
        return None
    if isinstance(op, Linear):
        found = dense(*operand, weight, bias)
    elif weight.ndim != 4 or max(*op.dilation, op.groups) > 1:
        return None
    else:
        found = interval(*operand, weight, bias, op.stride, op.padding, spent=type(operand) is Spent)
    return None if found is None else Interval(*found)


def _halves(operand: Interval) -> tuple[Tensor, Tensor]:
    """Centre and radius, in the memory of the bounds where nobody reads these any more."""
    if type(operand) is Spent:
        center = torch.lerp(operand.lower, operand.upper, 0.5, out=operand.lower)
        return center, operand.upper.sub_(center)
    center = middle(operand)
    return center, operand.upper - center


def middle(between: Interval) -> Tensor:
    """The centre; `upper - middle` is the radius, up to rounding."""
    return torch.lerp(between.lower, between.upper, 0.5)


def _at_once(node: Node, operand: Interval, rows: Interval, offset: Interval) -> Interval | None:
    """The same for a specification in compiled code, without the matrix of each example."""
    op = node.op
    assert isinstance(op, Spec)
    weight, bias = param_value(op.weight), param_value(op.bias)
    if not (rows.exact and offset.exact) or torch.is_autocast_enabled("cpu"):
        return None
    if recorded(*operand, rows.lower, offset.lower, weight, bias):
        return None
    found = spec(*operand, rows.lower, offset.lower, weight, bias)
    return None if found is None else Interval(*found)


@IBP.rule(Spec)
def _spec(node: Node, operand: Interval, rows: Interval, offset: Interval) -> Interval:
    if (found := _at_once(node, operand, rows, offset)) is not None:
        return found
    matrix, constant = spec_rows(node, rows, offset)
    center = middle(operand)
    radius = product(matrix.abs(), operand.upper - center)
    center = product(matrix, center) + constant
    return Interval(center - radius, center + radius)

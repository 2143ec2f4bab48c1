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
from irverify.passes.interval import INTERVAL, ends, product, spec_rows
from irverify.passes.propagate import Interval, IntervalRule, interval_facts
from irverify.passes.rules import RuleTable
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

IBP: RuleTable[IntervalRule] = RuleTable("ibp", base=INTERVAL)


@dataclass(frozen=True)
class Ibp(Analysis):
    """Bounds by interval bound propagation: centre and radius, two products a layer."""

    name = "ibp"

    def run(self, state: State) -> Facts:
        return interval_facts(state, IBP, self.name)


@IBP.rule(Linear, ConstMatMul, Conv, ConvTranspose, LinearOp)
def affine(node: Node, *operands: Interval) -> Interval:
    """Centre and radius through one product each (paper 4, eq. 6)."""
    op = node.op
    assert isinstance(op, LinearOp)
    if op.nonnegative:
        return ends(node, *operands)
    centers = [middle(operand) for operand in operands]
    radius = op.apply_abs(*(operand.upper - center for operand, center in zip(operands, centers, strict=True)))
    center = op.evaluate(*centers)
    return Interval(center - radius, center + radius)


def middle(interval: Interval) -> Tensor:
    """The centre; `upper - middle` is the radius, up to rounding."""
    return torch.lerp(interval.lower, interval.upper, 0.5)


@IBP.rule(Spec)
def _spec(node: Node, operand: Interval, rows: Interval, offset: Interval) -> Interval:
    matrix, constant = spec_rows(node, rows, offset)
    center = middle(operand)
    radius = product(matrix.abs(), operand.upper - center)
    center = product(matrix, center) + constant
    return Interval(center - radius, center + radius)

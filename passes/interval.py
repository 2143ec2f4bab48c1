"""Naive interval arithmetic: each operator bounded on the box of its operands alone (paper 1, app. C.1, eq. 7 and 8).

For an affine map `y = W x + b` with `W+ = max(W, 0)` and `W- = min(W, 0)`:

    l' = W+ l + W- u + b        u' = W+ u + W- l + b

which takes four products. Operators that are monotone are evaluated at both ends; the others have rules of their own,
each exact on its box. `ibp` shares all rules but those of affine maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Node
from irverify.ir.ops import (
    Abs,
    Add,
    BatchNorm,
    Cast,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Cos,
    Div,
    Elementwise,
    Linear,
    LinearOp,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Pow,
    Relu,
    ScaleShift,
    Sin,
    Softmax,
    Spec,
    Step,
    Sub,
    Trunc,
)
from irverify.ir.params import once, value
from irverify.passes.powers import absolute, cosine, power, sine
from irverify.passes.products import div, matmul, mul, softmax
from irverify.passes.propagate import Interval, IntervalRule, Spent, interval_facts
from irverify.passes.rules import RuleTable, increasing
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State
from irverify.rounding import round_down, round_up

JUMP = 1e4
"""How many units in the last place of a value's magnitude its bounds are widened by in front of a jump."""
INTERVAL: RuleTable[IntervalRule] = RuleTable("interval")
INTERVAL.rule(Abs)(absolute)
INTERVAL.rule(Pow)(power)
INTERVAL.rule(Sin)(sine)
INTERVAL.rule(Cos)(cosine)
INTERVAL.rule(Mul)(mul)
INTERVAL.rule(Div)(div)
INTERVAL.rule(MatMul)(matmul)
INTERVAL.rule(Softmax)(softmax)


@dataclass(frozen=True)
class IntervalArithmetic(Analysis):
    """Bounds by naive interval arithmetic: four products a layer."""

    name = "interval"
    single_walk = True

    def run(self, state: State) -> Facts:
        return interval_facts(state, INTERVAL, self.name)


@INTERVAL.rule(Elementwise, when=increasing)
@INTERVAL.rule(MaxPool, Maximum, Minimum)
def ends(node: Node, *operands: Interval) -> Interval:
    """Increasing in every operand: evaluated at the lower and at the upper ends (paper 4, eq. 7)."""
    if type(operands[0]) is Spent and type(node.op) is Relu:
        return Interval(operands[0].lower.relu_(), operands[0].upper.relu_())
    if len(operands) == 2 and type(node.op) is Add and (found := _added(*operands)) is not None:
        return found
    lower = node.op.evaluate(*(operand.lower for operand in operands))
    return Interval(lower, node.op.evaluate(*(operand.upper for operand in operands)))


def _added(first: Interval, second: Interval) -> Interval | None:
    """The sum in the memory of one of them, where nobody reads that any more."""
    mine, other = (first, second) if type(first) is Spent else (second, first)
    if type(mine) is not Spent or mine.lower.dtype != other.lower.dtype:
        return None
    if any(one.stride() != two.stride() for one, two in zip(mine, other, strict=True)):
        return None  # what reads the sum rounds by the order in memory
    return Interval(mine.lower.add_(other.lower), mine.upper.add_(other.upper))


@INTERVAL.rule(Step, Trunc)
def jumping(node: Node, operand: Interval) -> Interval:
    """Increasing, but with jumps, where the rounding of an end could decide between two values: evaluated beyond it."""
    magnitude = torch.stack(operand, dim=1).detach().abs().flatten(1).amax(1).clamp(min=1.0)
    slack = JUMP * torch.finfo(magnitude.dtype).eps * magnitude.reshape(-1, *(1,) * (operand.lower.ndim - 1))
    return Interval(node.op.evaluate(operand.lower - slack), node.op.evaluate(operand.upper + slack))


@INTERVAL.rule(LinearOp)
def affine(node: Node, *operands: Interval) -> Interval:
    """Any affine map. `A+ = (|A| + A) / 2` and `A- = (A - |A|) / 2` in eq. 7 and 8 of paper 1."""
    op = node.op
    assert isinstance(op, LinearOp)
    if op.nonnegative:
        return ends(node, *operands)
    lower, upper = [operand.lower for operand in operands], [operand.upper for operand in operands]
    signed, absolute = op.apply(*lower) + op.apply(*upper), op.apply_abs(*upper) - op.apply_abs(*lower)
    offset = op.offset(signed.ndim - 1)
    center = signed / 2 if offset is None else signed / 2 + offset
    return Interval(center - absolute / 2, center + absolute / 2)


@INTERVAL.rule(Linear, ConstMatMul, Conv, ConvTranspose)
def weighted(node: Node, operand: Interval) -> Interval:
    """An affine map given by a weight (paper 1, eq. 7 and 8)."""
    op = node.op
    assert isinstance(op, Linear | ConstMatMul | Conv | ConvTranspose)
    weight = value(op.weight)
    positive, negative = op.replace(weight=weight.clamp(min=0)), op.replace(weight=weight.clamp(max=0))
    offset = op.offset(len(node.type.shape))
    lower = positive.apply(operand.lower) + negative.apply(operand.upper)
    upper = positive.apply(operand.upper) + negative.apply(operand.lower)
    return Interval(lower, upper) if offset is None else Interval(lower + offset, upper + offset)


@INTERVAL.rule(ScaleShift, BatchNorm)
def scaled(node: Node, operand: Interval) -> Interval:
    """`s x + t` element by element: the ends change places where s is negative."""
    op = node.op
    assert isinstance(op, LinearOp)
    offset = op.offset(len(node.type.shape))
    first, second = op.apply(operand.lower), op.apply(operand.upper)
    shifts_only = isinstance(op, ScaleShift) and op.scale is None
    if not shifts_only:
        first, second = torch.minimum(first, second), torch.maximum(first, second)
    return Interval(first, second) if offset is None else Interval(first + offset, second + offset)


@INTERVAL.rule(Sub)
def _sub(node: Node, first: Interval, second: Interval) -> Interval:
    if node.inputs[0] == node.inputs[1]:
        zero = torch.zeros_like(first.lower)
        return Interval(zero, zero)
    return Interval(first.lower - second.upper, first.upper - second.lower)


@INTERVAL.rule(Neg)
def _neg(node: Node, operand: Interval) -> Interval:
    return Interval(-operand.upper, -operand.lower)


@INTERVAL.rule(Cast)
def _cast(node: Node, operand: Interval) -> Interval:
    """In the reals nothing happens; a narrower type rounds outward."""
    return Interval(round_down(operand.lower, node.type.dtype), round_up(operand.upper, node.type.dtype))


def spec_rows(node: Node, rows: Interval, offset: Interval) -> tuple[Tensor, Tensor]:
    """Matrix and constant of a specification. Raises UnsupportedError where they depend on the perturbed input."""
    if not (rows.exact and offset.exact):
        hint = "rows are runtime operands or constants"
        raise UnsupportedError("the rows of a specification depend on the input", where=str(node), hint=hint)
    assert isinstance(node.op, Spec)
    op, given = node.op, (rows.lower, offset.lower)
    return once((op, *given), lambda: op.affine(*given))  # its interval asks, and rows that pass it


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """`[batch, rows, n]` times `[batch, n]`, as row times matrix, which the libraries do several times faster."""
    return torch.matmul(vector.unsqueeze(1), matrix.mT).squeeze(1)


@INTERVAL.rule(Spec)
def _spec(node: Node, operand: Interval, rows: Interval, offset: Interval) -> Interval:
    matrix, constant = spec_rows(node, rows, offset)
    positive, negative = matrix.clamp(min=0), matrix.clamp(max=0)
    lower = product(positive, operand.lower) + product(negative, operand.upper)
    upper = product(positive, operand.upper) + product(negative, operand.lower)
    return Interval(lower + constant, upper + constant)

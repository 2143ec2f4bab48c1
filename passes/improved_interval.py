"""Improved interval arithmetic: what is certainly linear is composed, everything else is its interval (paper 1, app.
C.2, eq. 9).

A ReLU that is certain to be active is the identity, so that an affine map of it can be composed with the affine map
before it: symbols of earlier layers cancel. For layer i of a chain let `A` select the rows of `W_i` that read active
ReLUs, `N` all other rows, `[l, u]` the intervals after and `[l^, u^]` those before the ReLUs. With `f_1` as in eq. 7
and 8 (the intervals of an affine map), the bounds of layer k are `f_k` on the layers k, ..., 1, where

    f_1(u, l, W, b) = (u W+ + l W- + b,  l W+ + u W- + b)
    f_n+1(u, l, W, b) = f_1(u_1, l_1, W_1N, b_1) + f_n(u_[1:], l_[1:], (W_2 W_1A, W_[2:]), (b_2 W_1A, b_[2:]))    (9)

that is, `l^_k <= z^_k <= u^_k` for every input of the region: rows over a layer pass on what reads active ReLUs,
unchanged, and the rest meets its intervals at once. These are the rows of backward linear bounds where every uncertain
value lies between two constants. The products `W_2 W_1A` of eq. 9 are therefore never formed: rows go through the
adjoints of the operators, whatever these are, on any DAG, and contributions of several paths to a value add up. All
layers together take O(d^2) products, as in the paper.

Eq. 9 holds as printed, at any depth (only the call for layer k leaves out b). Beyond it, and as sound:

- On any DAG and for every operator. A piecewise linear function is composed where its piece is certain (an inactive
  ReLU is the constant 0), a maximum where its argument is, a product where one factor is known exactly; every other
  value is its interval. Over l2 and l1 balls the rows that reach the inputs are bounded by the dual norm.
- Bounds are intersected with plain intervals from values tightened so far, and rows are only followed for elements that
  these leave open. Eq. 9 alone is never looser than eq. 7 and 8 where nothing else is known, since
  `|W_2 W_1A| <= |W_2| |W_1A|`; with bounds from elsewhere only the intersection is.
- A ReLU with `l^ = 0` is active as well; in the paper it is not (`l^ > 0`).

Differentiable in the parameters and bounds, as every piece of it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Div, Elementwise, LinearOp, Maximum, MaxPool, Minimum, Mul, Operator, Spec
from irverify.ir.ops.base import Pieces
from irverify.passes.crown import LinearBounds
from irverify.passes.ibp import IBP
from irverify.passes.lines import Between, Choice, Enclosed, Plane, Relaxation, Relaxed
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, RelaxRule
from irverify.passes.rules import RuleTable
from irverify.passes.stability import stability
from irverify.pipeline.facts import Bounds

IMPROVED: RuleTable[RelaxRule] = RuleTable("improved-interval")


@dataclass(frozen=True)
class ImprovedInterval(LinearBounds):
    """Intervals with everything that is certainly linear composed (paper 1, app. C.2, eq. 9), on any graph."""

    name = "improved-interval"
    rules = IMPROVED


@IMPROVED.rule(Operator)
def boxed(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """Whatever else it is: the interval."""
    return Enclosed(*_interval(node, operands))


@IMPROVED.rule(LinearOp, Spec, MaxPool)
def _as_linear_bounds(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """Affine maps are exact. A maximum over a window is the element that is certain to be largest where there is one;
    elsewhere its linear bounds serve as they do in crown."""
    rule = RELAXATIONS.find(type(node.op))
    assert rule is not None
    return rule(node, operands, choice)


@IMPROVED.rule(Elementwise)
def _elementwise(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """The line of the piece where that is certain (paper 1: `W_A`), else two constants (`W_N`)."""
    lower, upper = _interval(node, operands)
    zero = torch.zeros_like(lower)
    assert isinstance(node.op, Elementwise)
    pieces = node.op.pieces()
    if pieces is None:
        return Relaxation(zero, lower, zero, upper)
    piece = stability(pieces, Bounds(*operands[0], IMPROVED.analysis)).piece
    slope = zero
    for index, (steepness, intercept) in enumerate(_lines(node.op, pieces)):
        here = piece == index
        slope = torch.where(here, torch.full_like(zero, steepness), slope)
        lower, upper = (torch.where(here, torch.full_like(zero, intercept), side) for side in (lower, upper))
    return Relaxation(slope, lower, slope, upper)


def _lines(op: Elementwise, pieces: Pieces) -> list[tuple[float, float]]:
    """Slope and intercept of each piece, from the value at a breakpoint that it reaches (at 0 where there is none)."""
    lines = []
    for index, slope in enumerate(pieces.slopes):
        point = pieces.breakpoints[max(0, index - 1)] if pieces.breakpoints else 0.0
        height = op.evaluate(torch.tensor([point], dtype=torch.float64)).item()
        lines.append((slope, height - slope * point))
    return lines


@IMPROVED.rule(Maximum, Minimum)
def _chosen(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """One of the two where that is certain."""
    first, second = operands
    if isinstance(node.op, Maximum):
        takes_first, takes_second = first.lower >= second.upper, second.lower >= first.upper
    else:
        takes_first, takes_second = first.upper <= second.lower, second.upper <= first.lower
    takes_second = takes_second & ~takes_first
    lower, upper = (torch.where(takes_first | takes_second, 0.0, side) for side in _interval(node, operands))
    return _split(takes_first.to(lower.dtype), takes_second.to(lower.dtype), Interval(lower, upper))


@IMPROVED.rule(Mul, Div)
def _scaled(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """Linear in one factor (in the numerator) where the other is known exactly."""
    first, second = operands
    zero = torch.zeros_like(first.lower)
    if second.exact:
        factor = second.lower if isinstance(node.op, Mul) else 1 / second.lower
        return _split(factor, zero, Interval(zero, zero))
    if first.exact and isinstance(node.op, Mul):
        return _split(zero, first.lower, Interval(zero, zero))
    return boxed(node, operands, choice)


def _split(first: Tensor, second: Tensor, rest: Interval) -> Between:
    """`first x_1 + second x_2` and what lies in the interval `rest`."""
    return Between(Plane(first, second, rest.lower), Plane(first, second, rest.upper))


def _interval(node: Node, operands: Sequence[Interval]) -> Interval:
    rule = IBP.find(type(node.op))
    assert rule is not None  # intervals have a rule for every operator
    return rule(node, *operands)

"""Linear relaxations of nonlinear operators: one table, operator and choice -> a line below and a line above.

For pre-activations `l <= x <= u` a relaxation gives, element by element,

    lower_slope x + lower_intercept  <=  op(x)  <=  upper_slope x + upper_intercept      for all x in [l, u]

(Zhang et al. 2018, "Efficient neural network robustness certification with general activation functions", tables 2
and 3). The choices differ in the line that is free to choose, below an unstable ReLU: `adaptive` (CROWN: slope 1 where
u > -l, else 0), `zero` (slope 0), `same` (Fast-Lin: u / (u - l), the slope of the upper line; paper 2, sec. 3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Abs, Clip, LeakyRelu, LinearOp, MaxPool, Operator, Relu, Sigmoid, Spec, Tanh
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.types import TensorType
from irverify.passes.interval import spec_rows
from irverify.passes.propagate import Interval
from irverify.passes.rules import RuleTable

Choice: TypeAlias = Literal["adaptive", "zero", "same"]
BISECTIONS = 40
"""Steps of the search for a tangent point; each halves an interval, and every intermediate result is already sound."""
Gathered: TypeAlias = Callable[[Tensor], Tensor]
"""Takes a tensor `[batch, ...]` to the rows `[rows, ...]` (or `[1, ...]`), the entry of each row's own example."""


def sums(rows: Tensor) -> Tensor:
    """The sum of each row `[rows, *shape]`, `[rows]`; shapes may be scalar."""
    return rows.reshape(rows.shape[0], -1).sum(1)


class Relaxed(Protocol):
    """A nonlinear node between linear bounds."""

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        """For rows `a` `[rows, *shape]` over the result: coefficients over each operand and constants `[rows]` with
        `a . y >= sum a_i . x_i + c` for all operands within their bounds."""
        ...


@dataclass(frozen=True)
class Relaxation:
    """The line below and the line above, four tensors of the shape of the value `[batch, *shape]`."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        """The line below where a coefficient is positive, the line above where it is negative."""
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        below, above = gathered(self.lower_slope), gathered(self.upper_slope)
        constant = positive * gathered(self.lower_intercept) + negative * gathered(self.upper_intercept)
        return (positive * below + negative * above,), sums(constant)


@dataclass(frozen=True)
class Selected:
    """A maximum over windows: `y >= x_i` for the element i with the largest lower bound; where that lower bound is at
    least every other upper bound `y = x_i`, elsewhere `y <= ceiling`, the largest upper bound."""

    pool: MaxPool
    operand: tuple[int, ...]
    index: Tensor
    """Place of i in the padded plane, `[batch, channels, *windows]`."""
    certain: Tensor
    ceiling: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        certain = gathered(self.certain)
        passed = positive + negative * certain
        constant = sums(negative * torch.where(certain > 0, 0.0, gathered(self.ceiling)))
        channels, *extents = self.operand
        padded = [
            extent + before + after for extent, (before, after) in zip(extents, self.pool.padding, strict=True)
        ]
        index = gathered(self.index).flatten(2).expand(coefficients.shape[0], -1, -1)
        plane = coefficients.new_zeros(coefficients.shape[0], channels, math.prod(padded))
        spread = plane.scatter_add(2, index, passed.flatten(2)).reshape(-1, channels, *padded)
        crop = tuple((-before, -after) for before, after in self.pool.padding)
        return (pad_spatial(spread, crop),), constant


@dataclass(frozen=True)
class Affine:
    """A linear operator: its adjoint, exactly."""

    op: LinearOp
    operands: tuple[TensorType, ...]
    rank: int

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        offset = self.op.offset(self.rank)
        constant = coefficients.new_zeros(coefficients.shape[0])
        if offset is not None:
            constant = sums(coefficients * offset)
        return self.op.adjoint(coefficients, self.operands), constant


@dataclass(frozen=True)
class SpecRows:
    """A specification: linear in the value that it reads; its rows are known for each example. `matrix`
    `[batch, spec, in]`, `offset` `[batch, spec]`."""

    matrix: Tensor
    offset: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        passed = torch.matmul(coefficients.unsqueeze(1), gathered(self.matrix)).squeeze(1)
        return (passed,), (coefficients * gathered(self.offset)).sum(1)


RelaxRule: TypeAlias = Callable[[Node, Sequence[Interval], Choice], Relaxed]
"""`rule(node, operands, choice)`: the node between linear bounds, for operands within these intervals."""
RELAXATIONS: RuleTable[RelaxRule] = RuleTable("linear bounds")
RELAXATIONS.refuse("not convex, and no linear bounds are known here; interval and ibp bound it", Operator)


@RELAXATIONS.rule(LinearOp)
def _linear(node: Node, operands: Sequence[Interval], choice: Choice) -> Affine:
    assert isinstance(node.op, LinearOp)
    types = tuple(TensorType(tuple(operand.lower.shape[1:]), operand.lower.dtype) for operand in operands)
    return Affine(node.op, types, len(node.type.shape))


@RELAXATIONS.rule(Spec)
def _spec(node: Node, operands: Sequence[Interval], choice: Choice) -> SpecRows:
    return SpecRows(*spec_rows(node, *operands[1:]))


@RELAXATIONS.rule(Relu)
def _relu(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _kinked(0.0, 1.0, *operands[0], choice)


@RELAXATIONS.rule(LeakyRelu)
def _leaky_relu(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    assert isinstance(node.op, LeakyRelu)
    return _kinked(node.op.slope, 1.0, *operands[0], choice)


@RELAXATIONS.rule(Abs)
def _abs(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _kinked(-1.0, 1.0, *operands[0], choice)


@RELAXATIONS.rule(Sigmoid)
def _sigmoid(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _s_shaped(lambda x: x.sigmoid(), lambda x: x.sigmoid() * (-x).sigmoid(), *operands[0])


@RELAXATIONS.rule(Tanh)
def _tanh(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _s_shaped(lambda x: x.tanh(), lambda x: 1 - x.tanh() ** 2, *operands[0])


@RELAXATIONS.rule(MaxPool)
def _max_pool(node: Node, operands: Sequence[Interval], choice: Choice) -> Selected:
    pool, operand = node.op, operands[0]
    assert isinstance(pool, MaxPool)
    low = pad_spatial(operand.lower, pool.padding, -math.inf)
    pooling = {1: torch.nn.functional.max_pool1d, 2: torch.nn.functional.max_pool2d, 3: torch.nn.functional.max_pool3d}
    largest, index = pooling[len(pool.kernel)](
        low, pool.kernel, pool.stride, 0, pool.dilation, return_indices=True
    )
    high = pad_spatial(operand.upper, pool.padding, -math.inf)
    chosen = high.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    rivals = _count_above(pool, high, largest) - (chosen > largest).to(low.dtype)
    certain = (rivals == 0).to(low.dtype)
    return Selected(pool, tuple(operand.lower.shape[1:]), index, certain, pool.evaluate(operand.upper))


def _count_above(pool: MaxPool, padded: Tensor, threshold: Tensor) -> Tensor:
    """How many elements of each window of a padded plane exceed its threshold `[batch, channels, *windows]`."""
    count = torch.zeros_like(threshold)
    for place in itertools.product(*map(range, pool.kernel)):
        ends = zip(place, pool.dilation, pool.stride, threshold.shape[2:], strict=True)
        axes: list[slice] = [
            slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride) for k, dilation, stride, n in ends
        ]
        count = count + (padded[(slice(None), slice(None), *axes)] > threshold).to(count.dtype)
    return count


@RELAXATIONS.rule(Clip)
def _clip(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    """`min(max(x, a), b)`. Where u <= b it is a ReLU above a; where l >= a a mirrored one below b; where both ends are
    cut, the line above runs from (l, a) to the corner (b, b) or is the constant b, whichever leaves less area, and the
    line below from the corner (a, a) to (u, b) or is the constant a."""
    op, (lower, upper) = node.op, operands[0]
    assert isinstance(op, Clip)
    low_cut, high_cut = lower < op.lower, upper > op.upper
    left_only = _shifted(_kinked(0.0, 1.0, lower - op.lower, upper - op.lower, choice), op.lower) \
        if math.isfinite(op.lower) else _line(lower, 1.0, 0.0)
    right_only = _shifted(_kinked(1.0, 0.0, lower - op.upper, upper - op.upper, choice), op.upper) \
        if math.isfinite(op.upper) else _line(lower, 1.0, 0.0)
    if not (math.isfinite(op.lower) and math.isfinite(op.upper)):
        return _select(low_cut, left_only, right_only)
    height = op.upper - op.lower
    both = low_cut & high_cut
    rise = height / torch.where(both, op.upper - lower, 1.0)
    fall = height / torch.where(both, upper - op.lower, 1.0)
    steep_up, steep_down = (upper - op.upper) < (op.upper - lower), (op.lower - lower) < (upper - op.lower)
    cut = Relaxation(
        torch.where(steep_down, fall, 0.0),
        torch.where(steep_down, op.lower - fall * op.lower, op.lower),
        torch.where(steep_up, rise, 0.0),
        torch.where(steep_up, op.upper - rise * op.upper, op.upper),
    )
    outside = (upper <= op.lower) | (lower >= op.upper)
    constant = _either(upper <= op.lower, op.lower, op.upper, lower)
    flat = Relaxation(torch.zeros_like(lower), constant, torch.zeros_like(lower), constant)
    inner = _select(low_cut, left_only, right_only)
    return _select(outside, flat, _select(both, cut, inner))



def _kinked(left: float, right: float, lower: Tensor, upper: Tensor, choice: Choice) -> Relaxation:
    """`left x` for x < 0 and `right x` for x >= 0. One side is the chord; the other is a line through the kink at 0
    with any slope between `left` and `right`."""
    active, unstable = lower >= 0, (lower < 0) & (upper > 0)
    one_sided = _either(active, right, left, lower)
    width = torch.where(unstable, upper - lower, 1.0)
    chord = torch.where(unstable, (right * upper - left * lower) / width, one_sided)
    # The chord meets the function at u: chord u + intercept = right u, written so that no large terms cancel.
    intercept = torch.where(unstable, (right - left) * upper * (-lower / width), 0.0)
    if choice == "same":
        free = chord
    elif choice == "zero":
        free = torch.where(unstable, min(left, right, key=abs), one_sided)
    else:
        free = torch.where(unstable, _either(upper > -lower, right, left, lower), one_sided)
    zero = torch.zeros_like(intercept)
    if left <= right:
        return Relaxation(free, zero, chord, intercept)
    return Relaxation(chord, intercept, free, zero)


def _s_shaped(
    function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor
) -> Relaxation:
    """A function that is odd up to a constant, increasing, convex below 0 and concave above (Zhang et al. 2018).

    Above: where l >= 0 the tangent at the middle; else the tangent at the smallest d >= 0 that stays above the
    function at l, or the chord where that d lies beyond u. Below: the mirror image.
    """
    above = _line_above(function, slope, lower, upper)
    # f(x) - f(0) is odd: a line a x + b above f on [-u, -l] gives a x - b + 2 f(0) below f on [l, u].
    mirrored_slope, mirrored_intercept = _line_above(function, slope, -upper, -lower)
    twice = 2 * function(torch.zeros_like(lower))
    return Relaxation(mirrored_slope, twice - mirrored_intercept, *above)


def _line_above(
    function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    low, high = function(lower), function(upper)
    # Bisection over [max(0, l), u]: `far` always keeps a tangent that is above the function at l, or is u itself.
    near, far = lower.clamp(min=0).minimum(upper), upper
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        holds = slope(middle) * (lower - middle) + function(middle) >= low
        near, far = torch.where(holds, near, middle), torch.where(holds, middle, far)
    touches = torch.where(lower >= 0, (lower + upper) / 2, far)
    reaches = (upper > 0) & (slope(touches) * (lower - touches) + function(touches) >= low)
    chord = _slope(lower, upper, low, high)
    steepness = torch.where(reaches, slope(touches), chord)
    # Of the two ends take the larger intercept, so that rounding leaves the chord above both.
    intercept = torch.where(
        reaches, function(touches) - steepness * touches, torch.maximum(low - chord * lower, high - chord * upper)
    )
    return steepness, intercept


def _either(condition: Tensor, chosen: float, other: float, like: Tensor) -> Tensor:
    """One of two numbers, in the type of `like` (torch.where of two Python numbers would round them to float32)."""
    return torch.where(condition, torch.full_like(like, chosen), torch.full_like(like, other))


def _slope(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The slope of the chord, 0 on a point."""
    width = upper - lower
    point = ~(width > 0)
    return torch.where(point, 0.0, (high - low) / torch.where(point, 1.0, width))


def _shifted(relaxation: Relaxation, by: float) -> Relaxation:
    """The relaxation of `f(x - by) + by` from that of f."""
    return Relaxation(
        relaxation.lower_slope,
        relaxation.lower_intercept + by - relaxation.lower_slope * by,
        relaxation.upper_slope,
        relaxation.upper_intercept + by - relaxation.upper_slope * by,
    )


def _line(like: Tensor, slope: float, intercept: float) -> Relaxation:
    slopes, intercepts = torch.full_like(like, slope), torch.full_like(like, intercept)
    return Relaxation(slopes, intercepts, slopes, intercepts)


def _select(condition: Tensor, chosen: Relaxation, other: Relaxation) -> Relaxation:
    return Relaxation(
        torch.where(condition, chosen.lower_slope, other.lower_slope),
        torch.where(condition, chosen.lower_intercept, other.lower_intercept),
        torch.where(condition, chosen.upper_slope, other.upper_slope),
        torch.where(condition, chosen.upper_intercept, other.upper_intercept),
    )

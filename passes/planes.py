"""Values between two affine functions of the network inputs, and how operators take them on: the rules of `forward`.

For planes `L <= v <= U` of the operands, functions of the inputs x, a rule gives planes of the result. For an affine
map, with the centre `M = (L + U) / 2` and the half width `D = (U - L) / 2` (functions of x; as in paper 4, eq. 6),

    W M + b - |W| D  <=  W v + b  <=  W M + b + |W| D

and for lines `p v + q <= f(v) <= r v + s` around a nonlinear function, from the table of `relaxations`, with
`p+ = max(p, 0)` and `p- = min(p, 0)`,

    p+ L + p- U + q  <=  f(v)  <=  r+ U + r- L + s

Whatever has no lines lies between two constants, the ends of its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Div, Elementwise, LinearOp, Maximum, MaxPool, Minimum, Mul, Operator, Spec
from irverify.ir.ops.conv import pad_spatial
from irverify.passes.interval import spec_rows
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, Choice, Relaxation, Selected
from irverify.passes.rules import RuleTable


@dataclass(frozen=True)
class Planes:
    """Two affine functions of the inputs, `[batch, columns, *shape]` each: the coefficient of every input element, then
    the constant. One and the same tensor where the value is this function; the batch may be 1 where all share it."""

    lower: Tensor
    upper: Tensor

    @property
    def exact(self) -> bool:
        return self.lower is self.upper

    def lines(self, lower_slope: Tensor, upper_slope: Tensor) -> Planes:
        """The planes of what is at least `lower_slope v` and at most `upper_slope v`, element by element
        (`[batch, *shape]`), for v between these."""
        below, above = lower_slope.unsqueeze(1), upper_slope.unsqueeze(1)
        if self.exact:
            return Planes(below * self.lower, above * self.lower)
        return Planes(
            below.clamp(min=0) * self.lower + below.clamp(max=0) * self.upper,
            above.clamp(min=0) * self.upper + above.clamp(max=0) * self.lower,
        )

    def plus(self, other: Planes) -> Planes:
        return Planes(self.lower + other.lower, self.upper + other.upper)

    def shifted(self, lower: Tensor, upper: Tensor) -> Planes:
        """With constants added, `[batch, *shape]`."""
        return Planes(_shift(self.lower, lower), _shift(self.upper, upper))


def _shift(plane: Tensor, constant: Tensor) -> Tensor:
    batch = max(plane.shape[0], constant.shape[0])
    constant = constant.expand(batch, *plane.shape[2:]).unsqueeze(1)
    columns = plane.expand(batch, *plane.shape[1:])
    return torch.cat([columns[:, :-1], columns[:, -1:] + constant], dim=1)


@dataclass(frozen=True)
class Step:
    """One node of the walk: its own interval, those of its operands, and their planes."""

    node: Node
    interval: Interval
    intervals: Sequence[Interval]
    planes: Callable[[int], Planes]
    columns: int
    choice: Choice

    def constant(self, interval: Interval) -> Planes:
        """The planes of a value that is only known to lie in an interval."""
        lower, upper = interval
        zeros = lower.new_zeros((lower.shape[0], self.columns - 1, *lower.shape[1:]))
        below = torch.cat([zeros, lower.unsqueeze(1)], dim=1)
        return Planes(below, below if interval.exact else torch.cat([zeros, upper.unsqueeze(1)], dim=1))


ForwardRule: TypeAlias = Callable[[Step], Planes]
FORWARD: RuleTable[ForwardRule] = RuleTable("forward")


@FORWARD.rule(Operator)
def constants(step: Step) -> Planes:
    """Whatever else it is: the two ends of its interval."""
    return step.constant(step.interval)


@FORWARD.rule(LinearOp)
def _affine(step: Step) -> Planes:
    """Centre and half width, or both planes where no entry of the map is negative."""
    op = step.node.op
    assert isinstance(op, LinearOp)
    planes = [step.planes(index) for index in range(len(step.node.inputs))]
    batch = max(part.lower.shape[0] for part in planes)
    exact = all(part.exact for part in planes)

    def mapped(apply: Callable[..., Tensor], parts: list[Tensor]) -> Tensor:
        flat = [part.expand(batch, *part.shape[1:]).flatten(0, 1) for part in parts]
        result = apply(*flat)
        return result.reshape(batch, step.columns, *result.shape[1:])

    if exact or op.nonnegative:
        lower = mapped(op.apply, [part.lower for part in planes])
        upper = lower if exact else mapped(op.apply, [part.upper for part in planes])
    else:
        center = mapped(op.apply, [(part.lower + part.upper) / 2 for part in planes])
        half = mapped(op.apply_abs, [(part.upper - part.lower) / 2 for part in planes])
        lower, upper = center - half, center + half
    offset = op.offset(lower.ndim - 2)
    if offset is None:
        return Planes(lower, upper)
    shifted = _shift(lower, offset.expand(1, *lower.shape[2:]))
    return Planes(shifted, shifted if exact else _shift(upper, offset.expand(1, *upper.shape[2:])))


@FORWARD.rule(Spec)
def _spec(step: Step) -> Planes:
    matrix, constant = spec_rows(step.node, *step.intervals[1:])
    planes, rows = step.planes(0), matrix.mT
    if planes.exact:
        lower = _shift(planes.lower @ rows, constant)
        return Planes(lower, lower)
    center, half = (planes.lower + planes.upper) / 2 @ rows, (planes.upper - planes.lower) / 2 @ rows.abs()
    return Planes(center - half, center + half).shifted(constant, constant)


@FORWARD.rule(Elementwise)
def _elementwise(step: Step) -> Planes:
    """Between the lines of the table of relaxations, where it has some."""
    rule = RELAXATIONS.find(type(step.node.op))
    lines = None if rule is None else rule(step.node, step.intervals, step.choice)
    if not isinstance(lines, Relaxation):
        return constants(step)
    between = step.planes(0).lines(lines.lower_slope, lines.upper_slope)
    return between.shifted(lines.lower_intercept, lines.upper_intercept)


@FORWARD.rule(MaxPool)
def _max_pool(step: Step) -> Planes:
    """The planes of the element with the largest lower bound; above, where another one may be larger, the interval."""
    rule = RELAXATIONS.find(MaxPool)
    assert rule is not None
    selected = rule(step.node, step.intervals, step.choice)
    assert isinstance(selected, Selected)
    index, pool = selected.index.unsqueeze(1), selected.pool

    def chosen(plane: Tensor) -> Tensor:
        padded = pad_spatial(plane, pool.padding).flatten(3).expand(index.shape[0], *(-1,) * 3)
        return padded.gather(3, index.flatten(3).expand(-1, step.columns, -1, -1)).reshape(
            index.shape[0], step.columns, *index.shape[2:]
        )

    planes, ends = step.planes(0), constants(step)
    certain = selected.certain.unsqueeze(1) > 0
    return Planes(chosen(planes.lower), torch.where(certain, chosen(planes.upper), ends.upper))


@FORWARD.rule(Mul)
def _mul(step: Step) -> Planes:
    """McCormick's planes, of each two the flatter:

    below `l_2 x_1 + l_1 x_2 - l_1 l_2` and `u_2 x_1 + u_1 x_2 - u_1 u_2`,
    above `u_2 x_1 + l_1 x_2 - l_1 u_2` and `l_2 x_1 + u_1 x_2 - u_1 l_2`.
    """
    (low, high), (other_low, other_high) = step.intervals
    below = _flatter(step.intervals, (other_low, low), (other_high, high))
    above = _flatter(step.intervals, (other_high, low), (other_low, high))
    first = step.planes(0).lines(below[0], above[0])
    second = step.planes(1).lines(below[1], above[1])
    return first.plus(second).shifted(-below[0] * below[1], -above[0] * above[1])


Slopes: TypeAlias = tuple[Tensor, Tensor]


def _flatter(intervals: Sequence[Interval], one: Slopes, other: Slopes) -> Slopes:
    """Of two pairs of slopes the one that varies less over the intervals, element by element."""
    width, other_width = (upper - lower for lower, upper in intervals)
    variation = [pair[0].abs() * width + pair[1].abs() * other_width for pair in (one, other)]
    first = variation[0] <= variation[1]
    return torch.where(first, one[0], other[0]), torch.where(first, one[1], other[1])


@FORWARD.rule(Div)
def _div(step: Step) -> Planes:
    """Linear in the numerator where the denominator is known exactly."""
    if not step.intervals[1].exact:
        return constants(step)
    slope = 1 / step.intervals[1].lower
    return step.planes(0).lines(slope, slope)


@FORWARD.rule(Maximum, Minimum)
def _extreme(step: Step) -> Planes:
    """A maximum is at least the operand with the larger lower bound, and is it where that is certain; above, elsewhere,
    its interval. A minimum mirrored."""
    (low, high), (other_low, other_high) = step.intervals
    first, second = step.planes(0), step.planes(1)
    ends = constants(step)
    if isinstance(step.node.op, Maximum):
        lower = _where(low >= other_low, first.lower, second.lower)
        upper = _where(low >= other_high, first.upper, _where(other_low >= high, second.upper, ends.upper))
    else:
        upper = _where(high <= other_high, first.upper, second.upper)
        lower = _where(high <= other_low, first.lower, _where(other_high <= low, second.lower, ends.lower))
    return Planes(lower, upper)


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.unsqueeze(1), chosen, other)

"""The lines around a nonlinear operator that may be chosen freely: what `alpha` optimises (Xu et al. 2021).

Of the two lines around an unstable activation often one, sometimes both, can be moved without leaving their side of the
function. A family holds all the choices, one number for each element: any number between `least` and `most` gives a
line that is valid over the whole of `[l, u]`, so that whatever an optimiser finds is sound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Abs, Clip, Exp, LeakyRelu, Relu, Sigmoid, Tanh
from irverify.ir.recording import recorded
from irverify.kernels.curves import curve_tangents
from irverify.passes.curves import EXP_REACH, SIGMOID, TANH, Curve, Function, touching_point
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Gathered, Relaxation
from irverify.passes.rules import RuleTable

Jet: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""A function and its first two derivatives at a point."""


class Line(NamedTuple):
    """`slope x + intercept`, each `[rows, *shape]` or broadcasting to it; no intercept is zero."""

    slope: Tensor
    intercept: Tensor | None


class Family(Protocol):
    """Lines on one side of a function, one for each number in `[least, most]`; `start` is the line that `crown`
    takes. All tensors are `[batch, *shape]`, or `[rows, *shape]` once gathered."""

    @property
    def least(self) -> Tensor: ...

    @property
    def most(self) -> Tensor: ...

    @property
    def start(self) -> Tensor: ...

    def line(self, choice: Tensor) -> Line:
        """The lines for these numbers; differentiable."""
        ...

    def taken(self, choice: Tensor) -> tuple[Line, Function]:
        """The same, and the derivative of what the lines are at x, by the numbers, as a function of x."""
        ...

    def gathered(self, gather: Gathered) -> Family:
        """The same for rows: of each the family of its own example."""
        ...


@dataclass(frozen=True)
class Pencil:
    """All lines through a point (x, y), told apart by their slope; no point is the origin."""

    least: Tensor
    most: Tensor
    start: Tensor
    point: tuple[Tensor, Tensor] | None = None

    def line(self, choice: Tensor) -> Line:
        return Line(choice, None if self.point is None else self.point[1] - choice * self.point[0])

    def taken(self, choice: Tensor) -> tuple[Line, Function]:
        point = self.point
        return self.line(choice), lambda x: x if point is None else x - point[0]

    def gathered(self, gather: Gathered) -> Pencil:
        point = None if self.point is None else (gather(self.point[0]), gather(self.point[1]))
        return Pencil(gather(self.least), gather(self.most), gather(self.start), point)


@dataclass(frozen=True)
class Tangents:
    """The tangents of a function, told apart by the point where they touch; `fixed`, another line, where `weight` is 0
    and not 1."""

    jet: Jet
    least: Tensor
    most: Tensor
    start: Tensor
    weight: Tensor
    fixed: tuple[Tensor, Tensor]

    def line(self, choice: Tensor) -> Line:
        return self.taken(choice)[0]

    def taken(self, choice: Tensor) -> tuple[Line, Function]:
        value, slope, bend = self.jet(choice)
        intercept = value - slope * choice
        line = Line(
            torch.addcmul(self.fixed[0], self.weight, slope), torch.addcmul(self.fixed[1], self.weight, intercept)
        )
        return line, lambda x: self.weight * bend * (x - choice)

    def gathered(self, gather: Gathered) -> Tangents:
        least, most, start, weight = map(gather, (self.least, self.most, self.start, self.weight))
        fixed = gather(self.fixed[0]), gather(self.fixed[1])
        return Tangents(self.jet, least, most, start, weight, fixed)


class Free(NamedTuple):
    """What can be chosen below and above; None: the lines of the relaxation stay."""

    below: Family | None
    above: Family | None


FreeRule: TypeAlias = Callable[[Node, Interval, Relaxation], Free]
"""`rule(node, operand, relaxation)`: the families that contain the lines of the relaxation."""
FREEDOM: RuleTable[FreeRule] = RuleTable("free lines")


@FREEDOM.rule(Relu)
def _relu(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    return _kinked(0.0, 1.0, operand, relaxation)


@FREEDOM.rule(LeakyRelu)
def _leaky_relu(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    assert isinstance(node.op, LeakyRelu)
    return _kinked(node.op.slope, 1.0, operand, relaxation)


@FREEDOM.rule(Abs)
def _abs(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    return _kinked(-1.0, 1.0, operand, relaxation)


def _kinked(left: float, right: float, operand: Interval, relaxation: Relaxation) -> Free:
    """`left x` below 0 and `right x` above: any line through the kink with a slope between the two."""
    convex = left <= right
    start = relaxation.lower_slope if convex else relaxation.upper_slope
    unstable = (operand.lower < 0) & (operand.upper > 0)
    least = start.masked_fill(unstable, min(left, right))
    pencil = Pencil(least, start.masked_fill(unstable, max(left, right)), start)
    return Free(pencil, None) if convex else Free(None, pencil)


@FREEDOM.rule(Clip)
def _clip(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    """Below: any line through the corner (a, a) with a slope of at most 1, and not above b at u. Above: the mirror."""
    op = node.op
    assert isinstance(op, Clip)
    below = _corner(op.lower, op.upper, operand, Line(relaxation.lower_slope, relaxation.lower_intercept))
    mirrored = _corner(
        -op.upper, -op.lower, Interval(-operand.upper, -operand.lower),
        Line(relaxation.upper_slope, -relaxation.upper_intercept),
    )  # fmt: skip
    above = None if mirrored is None else dataclasses.replace(mirrored, point=_negated(mirrored.point))
    return Free(below, above)


def _negated(point: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    return None if point is None else (-point[0], -point[1])


def _corner(cut: float, top: float, operand: Interval, line: Line) -> Pencil | None:
    """The lines below `min(max(x, cut), top)` through its lower corner, where that lies inside and is not the only
    piece; `line` elsewhere."""
    if not math.isfinite(cut) or line.intercept is None:
        return None
    free = (operand.lower < cut) & (operand.upper > cut)
    rise = torch.full_like(line.slope, top - cut) / torch.where(free, operand.upper - cut, 1.0)
    most = torch.where(free, rise.clamp(max=1.0), line.slope)
    corner = torch.full_like(line.slope, cut)
    point = torch.where(free, corner, 0.0), torch.where(free, corner, line.intercept)
    return Pencil(line.slope.masked_fill(free, 0.0), most, line.slope, point)


@FREEDOM.rule(Exp)
def _exponential(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    """Below: the tangent at any point of the interval."""
    lower, upper = operand
    start = torch.minimum((lower + upper) / 2, lower + EXP_REACH)
    line = Line(relaxation.lower_slope, relaxation.lower_intercept)
    return Free(_tangents(_exp_jet, lower <= upper, (lower, upper, start), line), None)


def _exp_jet(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = x.exp()
    return value, value, value


def _sigmoid_jet(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value, rest = x.sigmoid(), (-x).sigmoid()
    slope = value * rest
    return value, slope, slope * (rest - value)


def _tanh_jet(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value = x.tanh()
    slope = 1 - value**2
    return value, slope, -2 * value * slope


@FREEDOM.rule(Sigmoid)
def _sigmoid(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    return _s_shaped(SIGMOID, _sigmoid_jet, operand, relaxation)


@FREEDOM.rule(Tanh)
def _tanh(node: Node, operand: Interval, relaxation: Relaxation) -> Free:
    return _s_shaped(TANH, _tanh_jet, operand, relaxation)


def _s_shaped(curve: Curve, jet: Jet, operand: Interval, relaxation: Relaxation) -> Free:
    """Above: the tangent at any point from the one on that stays above the function at l. Below: the mirror image."""
    lower, upper = operand
    given = relaxation.lower_slope, relaxation.lower_intercept, relaxation.upper_slope, relaxation.upper_intercept
    if curve.compiled is not None and not recorded(*operand):
        found = curve_tangents(curve.compiled, lower, upper, given)
        if found is not None:
            return Free(*(Tangents(jet, *part) for part in found))
    ends = Interval(torch.stack([lower, -upper]), torch.stack([upper, -lower]))
    (first, last), (free, mirrored) = _touching(curve, ends)
    middle = (lower + upper) / 2
    below = _tangents(
        jet, mirrored, (lower, -last, torch.minimum(-last, middle)),
        Line(relaxation.lower_slope, relaxation.lower_intercept),
    )  # fmt: skip
    above = _tangents(
        jet, free, (first, upper, torch.maximum(first, middle)),
        Line(relaxation.upper_slope, relaxation.upper_intercept),
    )  # fmt: skip
    return Free(below, above)


def _touching(curve: Curve, operand: Interval) -> tuple[Tensor, Tensor]:
    """The first point whose tangent is above the function on the whole interval, and whether there is one."""
    point = touching_point(curve, *operand)
    height = curve.function(point) + curve.slope(point) * (operand.lower - point)
    return point, (operand.upper > 0) & (height >= curve.function(operand.lower))


def _tangents(jet: Jet, free: Tensor, ends: tuple[Tensor, Tensor, Tensor], line: Line) -> Tangents:
    """Tangents at least, most and start, the `ends`, where they are free; `line` elsewhere."""
    assert line.intercept is not None
    least, most, start = (torch.where(free, end, 0.0) for end in ends)
    fixed = torch.where(free, 0.0, line.slope), torch.where(free, 0.0, line.intercept)
    return Tangents(jet, least, most, start, free.to(start.dtype), fixed)

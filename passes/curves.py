"""Lines around elementwise functions: with a kink, convex, and S-shaped (Zhang et al. 2018, tables 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Abs, Clip, LeakyRelu, Pow
from irverify.ir.recording import recorded
from irverify.kernels.bounds import finite, relu_lines, relu_met
from irverify.kernels.curves import CurveName, curve_lines
from irverify.passes.lines import (
    Choice,
    Met,
    Relaxation,
    chord_slope,
    constant_line,
    either,
    guarded,
    select,
    shifted,
    turned,
)
from irverify.passes.powers import absolute, power
from irverify.passes.propagate import Interval

BISECTIONS = 24
"""Steps of the search for a tangent point; each halves an interval, and every intermediate result is already sound."""
EXP_REACH = 0.99
"""How far from the lower end exp is touched at most: the tangent at l + 1 would be 0 at l."""
NEWTON = 4
"""Steps of the search for a tangent point where the slope can be inverted; each doubles the digits that are right."""
Function: TypeAlias = Callable[[Tensor], Tensor]


def relu(node: Node, operands: Sequence[Interval], choice: Choice | Tensor) -> Relaxation:
    if recorded(*operands[0]) or not finite(*operands[0]):
        return kinked(0.0, 1.0, operands[0], choice)
    return ReluLines(operands[0], choice)


class ReluLines(Relaxation):
    """Lines around ReLUs whose operands lie in intervals of finite width, where nothing has derivatives. Rows meet them
    as compiled code makes them from these; the four tensors themselves are made where somebody asks for one."""

    _given: tuple[Interval, Choice | Tensor]

    def __init__(self, operand: Interval, choice: Choice | Tensor) -> None:
        self.__dict__["_given"] = operand, choice  # frozen: there is no other way

    def met(self, examples: int | slice) -> Met | None:
        (lower, upper), choice = self._given
        chosen = choice[examples] if isinstance(choice, Tensor) else choice
        found = relu_met(lower[examples], upper[examples], chosen, last=turned(lower))
        if found is None:
            return super().met(examples)
        slope, rise, top = found
        return slope, rise, None, top

    def __getattr__(self, name: str) -> Tensor:
        """What has not been made yet."""
        if name not in self.__dataclass_fields__:
            raise AttributeError(name)
        lines = vars(self._made())
        self.__dict__.update(lines)
        found: Tensor = lines[name]
        return found

    def _made(self) -> Relaxation:
        (lower, upper), choice = self._given
        found = relu_lines(lower, upper, choice)
        if found is None:
            return kinked(0.0, 1.0, self._given[0], choice)
        free, chord, top, _ = found
        return Relaxation(free, _zero(free.dtype, free.device).expand_as(free), chord, top)


@lru_cache(maxsize=8)
def _zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept may be met where there are gradients
        return torch.zeros((), dtype=dtype, device=device)


def leaky_relu(node: Node, operands: Sequence[Interval], choice: Choice | Tensor) -> Relaxation:
    assert isinstance(node.op, LeakyRelu)
    return kinked(node.op.slope, 1.0, operands[0], choice)


def absolute_value(node: Node, operands: Sequence[Interval], choice: Choice | Tensor) -> Relaxation:
    assert isinstance(node.op, Abs)
    lines = kinked(-1.0, 1.0, operands[0], choice)
    return guarded(lines, operands[0], lambda: absolute(node, operands[0]))


def kinked(left: float, right: float, operand: Interval, choice: Choice | Tensor) -> Relaxation:
    """`left x` for x < 0 and `right x` for x >= 0. One side is the chord; the other is a line through the kink at 0
    with any slope between `left` and `right`. A tensor as choice says how the operand leans: `right` where it is above
    0, and not the sum of the bounds."""
    lower, upper = operand
    active, unstable = lower >= 0, (lower < 0) & (upper > 0)
    one_sided = either(active, right, left, lower)
    width = torch.where(unstable, upper - lower, 1.0)
    chord = torch.where(unstable, (right * upper - left * lower) / width, one_sided)
    # The chord meets the function at u: chord u + intercept = right u, written so that no large terms cancel.
    intercept = torch.where(unstable, (right - left) * upper * (-lower / width), 0.0)
    if isinstance(choice, Tensor):
        free = torch.where(unstable, either(choice > 0, right, left, lower), one_sided)
    elif choice == "same":
        free = chord
    elif choice == "zero":
        free = torch.where(unstable, min(left, right, key=abs), one_sided)
    else:
        free = torch.where(unstable, either(upper > -lower, right, left, lower), one_sided)
    zero = torch.zeros_like(intercept)
    convex = left <= right
    lines = Relaxation(free, zero, chord, intercept) if convex else Relaxation(chord, intercept, free, zero)
    return guarded(lines, operand, lambda: _kinked_ends(left, right, operand))


def _kinked_ends(left: float, right: float, operand: Interval) -> tuple[Tensor, Tensor]:
    ends = [torch.where(end < 0, _times(left, end), _times(right, end)) for end in operand]
    inside = (operand.lower < 0) & (operand.upper > 0)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    return torch.where(inside, low.clamp(max=0), low), torch.where(inside, high.clamp(min=0), high)


def _times(slope: float, x: Tensor) -> Tensor:
    return slope * x if slope else torch.zeros_like(x)  # zero times infinity would be NaN


def clip(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    """`min(max(x, a), b)`. Where u <= b it is a ReLU above a; where l >= a a mirrored one below b; where both ends are
    cut, the line above runs from (l, a) to the corner (b, b) or is the constant b, whichever leaves less area, and the
    line below from the corner (a, a) to (u, b) or is the constant a; with choice `same` both run through these corners
    with the slope of the chord."""
    op, (lower, upper) = node.op, operands[0]
    assert isinstance(op, Clip)
    low_cut, high_cut = lower < op.lower, upper > op.upper
    left_only = _cut(0.0, 1.0, op.lower, operands[0], choice)
    right_only = _cut(1.0, 0.0, op.upper, operands[0], choice)
    inner = select(low_cut, left_only, right_only)
    if math.isfinite(op.lower) and math.isfinite(op.upper):
        both = low_cut & high_cut
        rise = (op.upper - op.lower) / torch.where(both, op.upper - lower, 1.0)
        fall = (op.upper - op.lower) / torch.where(both, upper - op.lower, 1.0)
        steep_up, steep_down = (upper - op.upper) < (op.upper - lower), (op.lower - lower) < (upper - op.lower)
        if choice == "same":
            rise = fall = (op.upper - op.lower) / torch.where(both, upper - lower, 1.0)
            steep_up = steep_down = both
        cut = Relaxation(
            torch.where(steep_down, fall, 0.0),
            torch.where(steep_down, op.lower - fall * op.lower, op.lower),
            torch.where(steep_up, rise, 0.0),
            torch.where(steep_up, op.upper - rise * op.upper, op.upper),
        )
        outside = (upper <= op.lower) | (lower >= op.upper)
        constant = either(upper <= op.lower, op.lower, op.upper, lower)
        flat = Relaxation(torch.zeros_like(lower), constant, torch.zeros_like(lower), constant)
        inner = select(outside, flat, select(both, cut, inner))
    return guarded(inner, operands[0], lambda: (op.evaluate(lower), op.evaluate(upper)))


def _cut(left: float, right: float, at: float, operand: Interval, choice: Choice) -> Relaxation:
    """A kink at `at`, where the function is `at`; the identity where there is none."""
    lower, upper = operand
    if not math.isfinite(at):
        return constant_line(lower, 1.0, 0.0)
    return shifted(kinked(left, right, Interval(lower - at, upper - at), choice), at)


@dataclass(frozen=True)
class Curve:
    """A function that is odd up to a constant, convex below 0 and concave above, with its first two derivatives.
    `steep_at`, where there is one, gives the point above 0 that has a slope, up to rounding; `bend` is about where it
    bends most; `compiled` is the name of compiled code that knows it."""

    function: Function
    slope: Function
    curvature: Function
    steep_at: Function | None = None
    bend: float = math.inf
    compiled: CurveName | None = None


def sigmoid_slope(x: Tensor) -> Tensor:
    return x.sigmoid() * (-x).sigmoid()


def _sigmoid_curvature(x: Tensor) -> Tensor:
    return sigmoid_slope(x) * ((-x).sigmoid() - x.sigmoid())


def _sigmoid_steep_at(slope: Tensor) -> Tensor:
    root = (1 - 4 * slope).clamp(min=0).sqrt()  # f' = f (1 - f)
    return 2 * root.atanh()


def tanh_slope(x: Tensor) -> Tensor:
    return 1 - x.tanh() ** 2


def _tanh_curvature(x: Tensor) -> Tensor:
    return -2 * x.tanh() * tanh_slope(x)


def _tanh_steep_at(slope: Tensor) -> Tensor:
    return (1 - slope).clamp(min=0).sqrt().atanh()  # f' = 1 - f^2


SIGMOID = Curve(torch.sigmoid, sigmoid_slope, _sigmoid_curvature, _sigmoid_steep_at, 3.0, "sigmoid")
TANH = Curve(torch.tanh, tanh_slope, _tanh_curvature, _tanh_steep_at, 1.5, "tanh")


def sigmoid(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _curved(SIGMOID, operands[0])


def tanh(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    return _curved(TANH, operands[0])


def _curved(curve: Curve, operand: Interval) -> Relaxation:
    if curve.compiled is not None and not recorded(*operand):
        found = curve_lines(curve.compiled, *operand)
        if found is not None:
            return Relaxation(*found)
    return guarded(s_shaped(curve, operand), operand, lambda: (curve.function(operand[0]), curve.function(operand[1])))


def s_shaped(curve: Curve, operand: Interval) -> Relaxation:
    """Lines around such a function (Zhang et al. 2018).

    Above: the tangent at the middle, which leaves the least area, where it stays above the function at l, as it does
    for l >= 0; else the tangent at the smallest d >= 0 that does, or the chord where that d lies beyond u. Below: the
    mirror image.
    """
    # f(x) - f(0) is odd: a line a x + b above f on [-u, -l] gives a x - b + 2 f(0) below f on [l, u].
    lower, upper = operand
    slopes, intercepts = _line_above(curve, torch.stack([lower, -upper]), torch.stack([upper, -lower]))
    twice = 2 * curve.function(torch.zeros_like(lower))
    return Relaxation(slopes[1], twice - intercepts[1], slopes[0], intercepts[0])


def _line_above(curve: Curve, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    function, slope = curve.function, curve.slope
    low, high = function(lower), function(upper)
    middle, first = (lower + upper) / 2, touching_point(curve, lower, upper)
    touches = torch.where(lower >= 0, middle, torch.maximum(first, middle))
    # Asked at u, where the chord is as good if rounding decides: at the tangent point itself it would decide always.
    with torch.no_grad():
        reaches = (upper > 0) & ((lower >= 0) | _touches(curve, lower, low, upper))
    steepness = torch.where(reaches, slope(touches), chord_slope(lower, upper, low, high))
    # Of two points that the line has to pass take the larger intercept, so that rounding leaves it above both.
    other = torch.where(reaches, function(touches) - steepness * touches, high - steepness * upper)
    intercept = torch.maximum(low - steepness * lower, other)
    return steepness, intercept


def touching_point(curve: Curve, lower: Tensor, upper: Tensor) -> Tensor:
    """The smallest point d of [max(0, l), u] whose tangent is above the function at l, from above; u where there is
    none. The condition holds at every point beyond it. Differentiable, by d' = (f'(l) - f'(d)) / (f''(d) (l - d)) where
    the tangent at d meets the function at l."""
    with torch.no_grad():
        point = _touching_point(curve, lower, upper)
    if not recorded(lower, upper):
        return point
    with torch.no_grad():
        steep = curve.curvature(point) * (lower - point)
        moves = (lower < 0) & (point < upper) & (steep > 0)
        by_lower = torch.where(moves, (curve.slope(lower) - curve.slope(point)) / torch.where(moves, steep, 1.0), 0.0)
    ends = torch.where(lower >= 0, lower.minimum(upper), torch.where(point < upper, by_lower * lower, upper))
    return point + (ends - ends.detach())


def _touching_point(curve: Curve, lower: Tensor, upper: Tensor) -> Tensor:
    near, far = lower.clamp(min=0).minimum(upper), upper
    if curve.steep_at is None:
        return _bisected(curve, lower, near, far)
    # The tangent from (l, f(l)) is the steepest chord from there: the slope of a chord to any other point is less, and
    # met beyond the tangent point, nearer to it by the square.
    low = curve.function(lower)
    point = torch.minimum(far, (-lower / 2).clamp(max=curve.bend)).maximum(near)
    for _ in range(NEWTON):
        chord = (curve.function(point) - low) / torch.where(point > lower, point - lower, 1.0)
        point = curve.steep_at(chord).clamp(near, far)
    point = torch.where(lower < 0, point, near)
    missed = ~_touches(curve, lower, low, point) & (point < far)
    if bool(missed.any()):  # by rounding
        point = point.masked_scatter(missed, _bisected(curve, *(part[missed] for part in (lower, near, far))))
    return point


def _touches(curve: Curve, lower: Tensor, low: Tensor, point: Tensor) -> Tensor:
    """Whether the tangent at a point is above the function at l, where that is `low`."""
    return curve.slope(point) * (lower - point) + curve.function(point) >= low


def _bisected(curve: Curve, lower: Tensor, near: Tensor, far: Tensor) -> Tensor:
    low = curve.function(lower)
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        holds = _touches(curve, lower, low, middle)
        near, far = torch.where(holds, near, middle), torch.where(holds, middle, far)
    return far


def exponential(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    """The chord above; below the tangent at the middle, or nearer to l, so that it stays positive."""
    lower, upper = operands[0]
    touches = torch.minimum((lower + upper) / 2, lower + EXP_REACH)
    lines = convex(torch.exp, torch.exp, operands[0], touches)
    return guarded(lines, operands[0], lambda: (lower.exp(), upper.exp()))


def convex(function: Function, slope: Function, operand: Interval, touches: Tensor) -> Relaxation:
    """The chord above, the tangent at the point `touches` below."""
    lower, upper = operand
    low, high, steepness = function(lower), function(upper), slope(touches)
    chord = chord_slope(lower, upper, low, high)
    above = torch.maximum(low - chord * lower, high - chord * upper)
    return Relaxation(steepness, function(touches) - steepness * touches, chord, above)


def powers(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxation:
    """`x ** p` by curvature: convex for even p > 0; for odd p > 1 concave below 0 and convex above; for p < 0 and
    fractional p, whose domain has one sign, by the sign of `p (p - 1) x ** (p - 2)`."""
    op, operand = node.op, operands[0]
    assert isinstance(op, Pow)
    lines = _powers(float(op.exponent), operand)
    return guarded(lines, operands[0], lambda: power(node, operand))


def _powers(exponent: float, operand: Interval) -> Relaxation:
    lower, upper = operand
    if exponent in (0.0, 1.0):
        return constant_line(lower, exponent, 1.0 - exponent)

    def function(x: Tensor) -> Tensor:
        return torch.pow(x, exponent)

    def slope(x: Tensor) -> Tensor:
        return exponent * torch.pow(x, exponent - 1)

    def curvature(x: Tensor) -> Tensor:
        return exponent * (exponent - 1) * torch.pow(x, exponent - 2)

    odd = exponent % 2 == 1
    if odd and exponent > 0:
        return s_shaped(Curve(lambda x: -function(x), lambda x: -slope(x), lambda x: -curvature(x)), operand).mirrored()
    lines = convex(function, slope, operand, (lower + upper) / 2)
    reversed_ = convex(lambda x: -function(x), lambda x: -slope(x), operand, (lower + upper) / 2).mirrored()
    if odd:
        return select(upper < 0, reversed_, lines)
    return reversed_ if 0 < exponent < 1 else lines

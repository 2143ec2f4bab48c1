"""Nonlinear nodes between linear bounds, and how rows over the result pass them: the forms that relaxations take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from irverify.ir.ops.memory import planes_prefer_last
from irverify.ir.recording import recorded
from irverify.kernels.bounds import met_lines
from irverify.passes.propagate import Interval
from irverify.regions.base import rowwise

Choice: TypeAlias = Literal["adaptive", "zero", "same"]
"""Which line is taken where one is free to choose."""
Met: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""The slope of the line below, how much more the one above has, and the constants below and above; None is zero."""
Gathered: TypeAlias = Callable[[Tensor], Tensor]
"""Takes a tensor `[batch, ...]` to the rows `[rows, ...]` (or `[1, ...]`), the entry of each row's own example."""


def sums(rows: Tensor) -> Tensor:
    """The sum of each row `[rows, *shape]`, `[rows]`; shapes may be scalar."""
    return rowwise(rows).sum(1)


def nonzero(x: Tensor) -> bool:
    """Whether any element is not zero; what is not a number is not."""
    if x.numel() == 0:
        return False
    x = x.detach()
    if not any(x.stride()):  # one number for all
        return float(x.as_strided((), ())) != 0
    low, high = x.aminmax()  # a fifth of the time of `any`
    return not float(low) == float(high) == 0


class Relaxed(Protocol):
    """A nonlinear node between linear bounds."""

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        """For rows `a` `[rows, *shape]` over the result: coefficients over each operand and constants `[rows]` with
        `a . y >= sum a_i . x_i + c` for all operands within their bounds. Operands at the end may be left out."""
        ...


def turned(around: Tensor) -> bool:
    """Whether rows over values `[batch, *shape]` like these stand in memory with the channels last."""
    return around.ndim == 4 and planes_prefer_last(around)


@dataclass(frozen=True)
class Relaxation:
    """A line below and a line above, four tensors of the shape of the value `[batch, *shape]`:
    `lower_slope x + lower_intercept <= y <= upper_slope x + upper_intercept`."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor
    finite: ClassVar[bool] = True
    """Whether all numbers are."""

    def met(self, examples: int | slice) -> Met | None:
        """The lines of some examples as rows over all elements or windows of the value meet them; None without compiled
        code for these."""
        slope, high = self.lower_slope[examples], self.upper_slope[examples]
        base, top = self.lower_intercept[examples], self.upper_intercept[examples]
        if recorded(slope, high, base, top):
            return None
        below = None if not any(base.stride()) and not nonzero(base) else base  # zeros without memory
        return met_lines(slope, high, below, top, last=turned(self.lower_slope))

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        """The line below where a coefficient is positive, the line above where it is negative."""
        negative = coefficients.clamp(max=0)
        passed = coefficients * gathered(self.lower_slope)
        if self.upper_slope is not self.lower_slope:
            passed = torch.addcmul(passed, negative, gathered(self.upper_slope - self.lower_slope))
        constant = coefficients.new_zeros(coefficients.shape[0])
        if nonzero(self.lower_intercept):
            constant = sums((coefficients - negative) * gathered(self.lower_intercept))
        if nonzero(self.upper_intercept):
            constant = constant + sums(negative * gathered(self.upper_intercept))
        return (passed,), constant

    def mirrored(self) -> Relaxation:
        """The lines of `-f`."""
        return Relaxation(-self.upper_slope, -self.upper_intercept, -self.lower_slope, -self.lower_intercept)


@dataclass(frozen=True)
class Plane:
    """`first x_1 + second x_2 + constant`, tensors `[batch, *shape]`."""

    first: Tensor
    second: Tensor
    constant: Tensor


@dataclass(frozen=True)
class Between:
    """An elementwise function of two values between a plane below and a plane above."""

    lower: Plane
    upper: Plane

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        low, high = self.lower, self.upper
        first = positive * gathered(low.first) + negative * gathered(high.first)
        second = positive * gathered(low.second) + negative * gathered(high.second)
        return (first, second), sums(positive * gathered(low.constant) + negative * gathered(high.constant))


@dataclass(frozen=True)
class Enclosed:
    """A value that is only known to lie in an interval, whatever its operands are."""

    lower: Tensor
    upper: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        least = torch.where(coefficients > 0, gathered(self.lower), gathered(self.upper))
        return (), sums(torch.where(coefficients == 0, 0.0, coefficients * least))


class Drawn:
    """A node whose lines are where rows meet them, and nowhere else."""

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        raise AssertionError("rows pass a node by the lines that were drawn around it")


@dataclass(frozen=True)
class Unbounded(Relaxation):
    """Lines of which some are infinite: no line where a coefficient is zero."""

    finite: ClassVar[bool] = False

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        chosen = coefficients > 0
        slope = torch.where(chosen, gathered(self.lower_slope), gathered(self.upper_slope))
        intercept = torch.where(chosen, gathered(self.lower_intercept), gathered(self.upper_intercept))
        return (coefficients * slope,), sums(torch.where(coefficients == 0, 0.0, coefficients * intercept))


Ends: TypeAlias = Callable[[], tuple[Tensor, Tensor]]
"""Bounds of the result, `[batch, *shape]`."""


def guarded(lines: Relaxation, operand: Interval, ends: Ends) -> Relaxation:
    """`lines`; where the width of the operand is not finite, or another overflow left none, the constants at the
    `ends`."""
    width = operand.upper - operand.lower
    total = width + lines.lower_slope + lines.lower_intercept + lines.upper_slope + lines.upper_intercept
    if math.isfinite(float(total.detach().sum())):
        return lines
    low, high = ends()
    bounded = width.isfinite()
    below = bounded & lines.lower_slope.isfinite() & lines.lower_intercept.isfinite()
    above = bounded & lines.upper_slope.isfinite() & lines.upper_intercept.isfinite()
    return Unbounded(
        torch.where(below, lines.lower_slope, 0.0),
        torch.where(below, lines.lower_intercept, low),
        torch.where(above, lines.upper_slope, 0.0),
        torch.where(above, lines.upper_intercept, high),
    )


def either(condition: Tensor, chosen: float, other: float, like: Tensor) -> Tensor:
    """One of two numbers, in the type of `like` (torch.where of two Python numbers would round them to float32)."""
    return torch.where(condition, torch.full_like(like, chosen), torch.full_like(like, other))


def chord_slope(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The slope of the chord, 0 on a point. It has no derivative where the width is so small that rounding would be
    most of that."""
    width = upper - lower
    point = ~(width > 0)
    slope = torch.where(point, 0.0, (high - low) / torch.where(point, 1.0, width))
    if not slope.requires_grad:
        return slope
    wide = width > torch.finfo(width.dtype).eps ** 0.5
    return torch.where(wide, (high - low) / torch.where(wide, width, 1.0), slope.detach())


def shifted(relaxation: Relaxation, by: float) -> Relaxation:
    """The relaxation of `f(x - by) + by` from that of f."""
    return Relaxation(
        relaxation.lower_slope,
        relaxation.lower_intercept + by - relaxation.lower_slope * by,
        relaxation.upper_slope,
        relaxation.upper_intercept + by - relaxation.upper_slope * by,
    )


def constant_line(like: Tensor, slope: float, intercept: float) -> Relaxation:
    """The same line below and above everywhere."""
    slopes, intercepts = torch.full_like(like, slope), torch.full_like(like, intercept)
    return Relaxation(slopes, intercepts, slopes, intercepts)


def select(condition: Tensor, chosen: Relaxation, other: Relaxation) -> Relaxation:
    return Relaxation(
        torch.where(condition, chosen.lower_slope, other.lower_slope),
        torch.where(condition, chosen.lower_intercept, other.lower_intercept),
        torch.where(condition, chosen.upper_slope, other.upper_slope),
        torch.where(condition, chosen.upper_intercept, other.upper_intercept),
    )

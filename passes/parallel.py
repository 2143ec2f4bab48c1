"""Two parallel lines around a piecewise linear function: what makes a dual layer linear.

For pre-activations `l <= z <= u` and a piecewise linear f

    | f(z) - (slope z + middle) | <= radius        with slope = (f(u) - f(l)) / (u - l), the slope of the chord

and slope = that of the piece, radius = 0, where no breakpoint lies strictly between l and u. For a ReLU these are the
lines of paper 5, cor. 2, and of Fast-Lin: slope u / (u - l), middle = radius = -slope l / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irverify.ir.ops import Elementwise
from irverify.ir.ops.base import Pieces
from irverify.ir.recording import recorded


@dataclass(frozen=True)
class ParallelLines:
    """Three tensors of the shape of the value, `[batch, *shape]`; `radius` is not negative."""

    slope: Tensor
    middle: Tensor
    radius: Tensor


def parallel_lines(op: Elementwise, lower: Tensor, upper: Tensor) -> ParallelLines:
    """The lines around `op`, which must have pieces, for pre-activations within `[lower, upper]`."""
    pieces = op.pieces()
    if pieces is None:
        raise TypeError(f"{op.name} is not piecewise linear")
    if len(pieces.breakpoints) == 1 and recorded(lower, upper):
        return ParallelLines(*_AroundKink.apply(lower, upper, op, pieces))  # type: ignore[no-untyped-call]
    return _lines(op, pieces, lower, upper)


class _AroundKink(torch.autograd.Function):
    """The lines around a function with one breakpoint k, of slope a before and b after it, and their gradients: one
    step in place of some thirty.

    Where l < k < u the slope s changes by (s - a) / (u - l) with l and by (b - s) / (u - l) with u. One line's
    constant, `f(l) - s l = f(u) - s u`, changes by -u and by -l times that; the other's, `f(k) - s k`, by -k times.
    """

    @staticmethod
    def forward(lower: Tensor, upper: Tensor, op: Elementwise, pieces: Pieces) -> tuple[Tensor, Tensor, Tensor]:
        lines = _lines(op, pieces, lower, upper)
        return lines.slope, lines.middle, lines.radius

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        lower, upper, _, ctx.pieces = inputs
        ctx.save_for_backward(lower, upper, output[0])

    @staticmethod
    def backward(ctx: Any, of_slope: Tensor, of_middle: Tensor, of_radius: Tensor) -> tuple[Tensor | None, ...]:
        lower, upper, slope = ctx.saved_tensors
        (kink,), (before, after) = ctx.pieces.breakpoints, ctx.pieces.slopes
        bent = (lower < kink) & (kink < upper)
        pace = bent / torch.where(bent, upper - lower, 1.0)
        # The middle is half the sum of both constants, the radius half their difference.
        turned = of_radius if after >= before else -of_radius
        ends, other = (of_middle + turned) / 2, of_slope - kink * (of_middle - turned) / 2
        of_lower, of_upper = pace * (slope - before), pace * (after - slope)
        return of_lower * (other - upper * ends), of_upper * (other - lower * ends), None, None


def _lines(op: Elementwise, pieces: Pieces, lower: Tensor, upper: Tensor) -> ParallelLines:
    low, high = op.evaluate(lower), op.evaluate(upper)
    inside = [(lower < kink) & (kink < upper) for kink in pieces.breakpoints]
    bent = torch.zeros_like(lower, dtype=torch.bool)
    for crossed in inside:
        bent = bent | crossed
    slope = _slope_of_piece(lower, pieces.breakpoints, pieces.slopes)
    width = torch.where(bent, upper - lower, 1.0)
    slope = torch.where(bent, (high - low) / width, slope)
    first, second = low - slope * lower, high - slope * upper
    least, greatest = torch.minimum(first, second), torch.maximum(first, second)
    for kink, crossed in zip(pieces.breakpoints, inside, strict=True):
        at = torch.full_like(lower, kink)
        gap = op.evaluate(at) - slope * at
        least = torch.where(crossed, torch.minimum(least, gap), least)
        greatest = torch.where(crossed, torch.maximum(greatest, gap), greatest)
    radius = torch.where(bent, (greatest - least) / 2, 0.0)
    return ParallelLines(slope, (greatest + least) / 2, radius)


def _slope_of_piece(lower: Tensor, breakpoints: tuple[float, ...], slopes: tuple[float, ...]) -> Tensor:
    """The slope of the piece that begins at `lower` or contains it."""
    slope = torch.full_like(lower, slopes[0])
    for kink, steepness in zip(breakpoints, slopes[1:], strict=True):
        slope = torch.where(lower >= kink, torch.full_like(lower, steepness), slope)
    return slope

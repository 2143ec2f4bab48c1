"""Linear bounds of maxima and minima: over windows, and of two values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import MaxPool
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.ops.memory import prefers_last
from irverify.ir.ops.pooling import MAX_POOL
from irverify.ir.recording import recorded
from irverify.kernels.native import watched
from irverify.kernels.pooling import candidates, select
from irverify.passes.curves import kinked
from irverify.passes.lines import Between, Choice, Enclosed, Gathered, Plane, Relaxed, sums
from irverify.passes.propagate import Interval


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
        at_once = self._at_once(coefficients, gathered)
        if at_once is not None:
            return (at_once[0],), at_once[1]
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        certain = gathered(self.certain)
        passed = positive + negative * certain
        open_ = torch.where(certain > 0, 0.0, negative)
        constant = sums(torch.where(open_ < 0, open_ * gathered(self.ceiling), 0.0))
        return (self.spread(passed, gathered(self.index)),), constant

    def _at_once(self, coefficients: Tensor, gathered: Gathered) -> tuple[Tensor, Tensor] | None:
        """`through` by compiled code."""
        met = self.index, self.certain, self.ceiling
        if not self.pool.windows.side_by_side or recorded(coefficients, self.ceiling) or watched():
            return None
        owner = gathered(torch.arange(self.certain.shape[0], device=self.certain.device))
        return select(coefficients, *met, owner, self.operand[1:])

    def spread(self, passed: Tensor, places: Tensor) -> Tensor:
        """Coefficients `[rows, channels, ...]` at places of the padded plane, added up over the operand."""
        channels, *extents = self.operand
        padded = [
            extent + before + after for extent, (before, after) in zip(extents, self.pool.padding, strict=True)
        ]
        if prefers_last(passed) and not recorded(passed):
            order = torch.arange(channels, device=places.device).reshape(-1, *(1,) * len(extents))
            index = (places * channels + order).movedim(1, -1).flatten(1).expand(passed.shape[0], -1)
            plane = passed.new_zeros(passed.shape[0], math.prod(padded) * channels)
            spread = plane.scatter_add(1, index, passed.movedim(1, -1).flatten(1))
            spread = spread.reshape(passed.shape[0], *padded, channels).movedim(-1, 1)
        else:
            index = places.flatten(2).expand(passed.shape[0], -1, -1)
            plane = passed.new_zeros(passed.shape[0], channels, math.prod(padded))
            spread = plane.scatter_add(2, index, passed.flatten(2)).reshape(passed.shape[0], channels, *padded)
        return pad_spatial(spread, tuple((-before, -after) for before, after in self.pool.padding))


def max_pool(node: Node, operands: Sequence[Interval], choice: Choice) -> Selected:
    pool, operand = node.op, operands[0]
    assert isinstance(pool, MaxPool)
    if pool.windows.side_by_side and not recorded(*operand):
        found = candidates(*operand, pool.kernel)
        if found is not None:
            return Selected(pool, tuple(operand.lower.shape[1:]), *found)
    # Elements without a lower bound (an overflow) must not be mistaken for padding, which counts as minus infinity.
    bottom = torch.finfo(operand.lower.dtype).min
    low = pad_spatial(operand.lower.clamp(min=bottom), pool.padding, -math.inf)
    largest, index = MAX_POOL[len(pool.kernel)](
        low, pool.kernel, pool.stride, 0, pool.dilation, return_indices=True
    )
    high = pad_spatial(operand.upper, pool.padding, -math.inf)
    chosen = high.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    # The chosen element may be the only one whose upper bound is above the largest lower one.
    rivals = (chosen <= largest).logical_not_().to(low.dtype).neg_()  # what is not a number is no less than anything
    for elements in window_elements(pool, high, largest.shape[2:]):
        rivals += (elements <= largest).logical_not_()
    certain = (rivals == 0).to(low.dtype)
    return Selected(pool, tuple(operand.lower.shape[1:]), index, certain, pool.evaluate(operand.upper))


def window_elements(pool: MaxPool, padded: Tensor, windows: Sequence[int]) -> Iterator[Tensor]:
    """The elements of each window of a padded plane, one after the other, each `[batch, channels, *windows]`."""
    for place in itertools.product(*map(range, pool.kernel)):
        ends = zip(place, pool.dilation, pool.stride, windows, strict=True)
        axes: list[slice] = [
            slice(k * dilation, k * dilation + (n - 1) * stride + 1, stride) for k, dilation, stride, n in ends
        ]
        yield padded[(slice(None), slice(None), *axes)]


def maximum(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """`max(x_1, x_2) = x_2 + relu(x_1 - x_2)`, the difference bounded by the intervals of the two."""
    first, second = operands
    difference = Interval(first.lower - second.upper, first.upper - second.lower)
    lines = kinked(0.0, 1.0, difference, choice)
    if not _finite(first, second):
        return Enclosed(torch.maximum(first.lower, second.lower), torch.maximum(first.upper, second.upper))
    return Between(
        Plane(lines.lower_slope, 1 - lines.lower_slope, lines.lower_intercept),
        Plane(lines.upper_slope, 1 - lines.upper_slope, lines.upper_intercept),
    )


def minimum(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """`min(x_1, x_2) = x_2 - relu(x_2 - x_1)`, likewise."""
    first, second = operands
    difference = Interval(second.lower - first.upper, second.upper - first.lower)
    lines = kinked(0.0, 1.0, difference, choice)
    if not _finite(first, second):
        return Enclosed(torch.minimum(first.lower, second.lower), torch.minimum(first.upper, second.upper))
    return Between(
        Plane(lines.upper_slope, 1 - lines.upper_slope, -lines.upper_intercept),
        Plane(lines.lower_slope, 1 - lines.lower_slope, -lines.lower_intercept),
    )


def _finite(*operands: Interval) -> bool:
    return all(math.isfinite(float(side.detach().sum())) for operand in operands for side in operand)

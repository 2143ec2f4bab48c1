"""Maxima over windows with a free lower bound: shares of the elements that may be the largest.

`y >= sum_j w_j x_j` holds for every w in the simplex over a window; `crown` takes the element with the largest lower
bound alone. Free is a number t_j in [0, 1] for each of its rivals, whose upper bounds are above that lower bound:

    w_j = t_j / max(1, sum t)        and what is left, (1 - sum t)+, for the element that crown takes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops.conv import pad_spatial
from irverify.passes.lines import Gathered, sums
from irverify.passes.maxima import Selected, window_elements
from irverify.passes.propagate import Interval

PACE = 0.35
"""The part of their range that counts as the whole in a step: all rivals of a window add up."""


@dataclass(frozen=True)
class Shares:
    """The elements of each window in a last axis, `[batch, channels, *windows, elements]`: their `places` in the padded
    plane; `chosen`, 1 for the one that crown takes; the choices."""

    places: Tensor
    chosen: Tensor
    least: Tensor
    most: Tensor
    start: Tensor

    @classmethod
    def of(cls, selected: Selected, operand: Interval) -> Shares:
        pool = selected.pool
        windows = selected.index.shape[2:]

        def elements(padded: Tensor) -> Tensor:
            return torch.stack([*window_elements(pool, padded, windows)], -1)

        high, low = (elements(pad_spatial(end, pool.padding, -math.inf)) for end in (operand.upper, operand.lower))
        plane = [n + before + after for n, (before, after) in zip(operand.lower.shape[2:], pool.padding, strict=True)]
        index = torch.arange(math.prod(plane), device=low.device).reshape(1, 1, *plane)
        places = elements(index).expand(low.shape)
        chosen = places == selected.index.unsqueeze(-1)
        rivals = (high > low.amax(-1, keepdim=True)) & ~chosen
        zero = torch.zeros_like(low)
        return cls(places, chosen.to(low.dtype), zero, rivals.to(low.dtype), zero)

    def gathered(self, gather: Gathered) -> Shares:
        return Shares(*map(gather, (self.places, self.chosen, self.least, self.most, self.start)))


class PoolSteering:
    """A maximum over windows between the bound of shares, as they were taken last, and the ceiling above."""

    def __init__(self, selected: Selected, shares: Shares, gather: Gathered) -> None:
        self._selected = selected
        self._shares = shares.gathered(gather)
        self._certain, self._ceiling = gather(selected.certain), gather(selected.ceiling)
        self.families = [self._shares]
        self._taken = self._shares.start

    def take(self, choices: Sequence[Tensor]) -> None:
        (self._taken,) = choices

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        total = self._taken.sum(-1, keepdim=True)
        shares = self._taken / total.clamp(min=1) + self._shares.chosen * (1 - total).clamp(min=0)
        certain = (negative * self._certain).unsqueeze(-1) * self._shares.chosen
        passed = positive.unsqueeze(-1) * shares + certain
        open_ = torch.where(self._certain > 0, 0.0, negative)
        constant = sums(torch.where(open_ < 0, open_ * self._ceiling, 0.0))
        return (self._selected.spread(passed, self._shares.places),), constant

"""Nodes whose lines are chosen for each row, on the way down with coefficients and up again with values.

A row's lower bound is its value at the worst input x* along the lines that it took, so that its derivative by the slope
and the intercept of a line is `a x` and `a`, with the coefficient a that reached the node and the value x below it at
x* (the envelope theorem). Elements where there is nothing to choose are passed by one product.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from irverify.ir.ops.conv import pad_spatial
from irverify.passes.curves import Function
from irverify.passes.freedom import Free, Line
from irverify.passes.lines import Gathered, Relaxation
from irverify.passes.maxima import Selected
from irverify.passes.shares import Shares
from irverify.regions.base import rowwise


class Turn(Protocol):
    """One such node, for rows. The choices are `[rows, choices]`; `least`, `most` and `start`, where `crown` is,
    `[rows, choices]` or `[1, choices]`."""

    @property
    def least(self) -> Tensor: ...

    @property
    def most(self) -> Tensor: ...

    @property
    def start(self) -> Tensor: ...

    def again(self, gather: Gathered) -> Turn:
        """The same choices for other rows, to which `gather` takes tensors."""
        ...

    def down(self, coefficients: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients over the operand, and the constants `[rows]`."""
        ...

    def up(self, operand: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """After `down`, for the value of the operand at the worst input `[rows, *shape]`: the derivatives
        `[rows, choices]`, and the value of the node where it is wanted."""
        ...


class Bends:
    """Lines around an elementwise function; choices are for the flat elements `places`, or for those where lines differ
    for any row."""

    def __init__(self, relaxation: Relaxation, free: Free, gather: Gathered, places: Tensor | None = None) -> None:
        self._given = relaxation, free

        def flat(tensor: Tensor) -> Tensor:
            return rowwise(gather(tensor))

        if places is None:
            places = flat(_bent(relaxation, free)).any(0).nonzero()[:, 0]
        self._places = places
        whole = places.shape[0] == math.prod(relaxation.lower_slope.shape[1:])
        self._straight = None if whole else flat(relaxation.lower_slope).index_fill(1, places, 0.0)

        def here(tensor: Tensor) -> Tensor:
            return flat(tensor) if whole else flat(tensor).index_select(1, self._places)

        self._families = [None if family is None else family.gathered(here) for family in free]
        fixed = (
            (relaxation.lower_slope, relaxation.lower_intercept), (relaxation.upper_slope, relaxation.upper_intercept)
        )  # fmt: skip
        self._fixed = [
            Line(here(slope), here(intercept)) if family is None else None
            for family, (slope, intercept) in zip(free, fixed, strict=True)
        ]
        chosen = [family for family in self._families if family is not None]
        self.least, self.most, self.start = (
            torch.cat([getattr(family, side) for family in chosen], 1) for side in ("least", "most", "start")
        )

    def again(self, gather: Gathered) -> Bends:
        return Bends(*self._given, gather, self._places)

    def down(self, coefficients: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        flat = rowwise(coefficients)
        here = self._taken(flat)
        self._parts = here.clamp(min=0), here.clamp(max=0)
        given = iter(choices.tensor_split(sum(family is not None for family in self._families), 1))
        self._lines: list[Line] = []
        self._derivatives: list[Function | None] = []
        for family, fixed in zip(self._families, self._fixed, strict=True):
            line, derivative = (fixed, None) if family is None else family.taken(next(given))
            assert line is not None
            self._lines.append(line)
            self._derivatives.append(derivative)
        (positive, negative), (below, above) = self._parts, self._lines
        passed = (positive * below.slope).addcmul_(negative, above.slope)
        constant = flat.new_zeros(flat.shape[0])
        for part, line in zip(self._parts, self._lines, strict=True):
            if line.intercept is not None:
                constant = constant + _products(part, line.intercept)
        return self._put(flat, passed).reshape(coefficients.shape), constant

    def up(self, operand: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        flat = rowwise(operand)
        here = self._taken(flat)
        found = [
            part * derivative(here)
            for part, derivative in zip(self._parts, self._derivatives, strict=True)
            if derivative is not None
        ]
        gradient = found[0] if len(found) == 1 else torch.cat(found, 1)
        if not wanted:
            return gradient, None
        low, high = (
            here * line.slope if line.intercept is None else torch.addcmul(line.intercept, here, line.slope)
            for line in self._lines
        )
        return gradient, self._put(flat, torch.where(self._parts[1] < 0, high, low)).reshape(operand.shape)

    def _taken(self, flat: Tensor) -> Tensor:
        """The elements where lines differ."""
        if self._straight is None:
            return flat
        return flat.gather(1, self._places.expand(flat.shape[0], -1))  # faster than index_select

    def _put(self, flat: Tensor, here: Tensor) -> Tensor:
        """All elements: those where lines differ, and the others along their one line."""
        if self._straight is None:
            return here
        return (flat * self._straight).scatter_(1, self._places.expand(flat.shape[0], -1), here)


def _bent(relaxation: Relaxation, free: Free) -> Tensor:
    """Where lines differ, or may, or do not pass through the origin."""
    found = relaxation.lower_slope != relaxation.upper_slope
    found = found | (relaxation.lower_intercept != 0) | (relaxation.upper_intercept != 0)
    for family in free:
        if family is not None:
            found = found | (family.least < family.most)
    return found


class Pooled:
    """A maximum over windows, at least any mixture of those that may be the largest; see `shares`."""

    def __init__(self, selected: Selected, shares: Shares, gather: Gathered, places: Tensor | None = None) -> None:
        self._selected = selected
        self._shares = shares
        windows, elements = shares.places.shape[1:-1], shares.places.shape[-1]
        planes = torch.arange(windows[0], device=shares.places.device).reshape(-1, *(1,) * (len(windows) - 1))
        self._padded = _padded(selected)
        self._size = math.prod(self._padded)

        def plane(places: Tensor) -> Tensor:
            """Places in the padded planes of all channels."""
            return places + self._size * planes

        rivals = rowwise(gather(shares.most))
        self._places = rivals.any(0).nonzero()[:, 0] if places is None else places
        self._window = self._places // elements
        every = plane(shares.places[0].movedim(-1, 0)).movedim(0, -1)
        self._rivals = every.reshape(-1)[self._places]
        self._chosen = rowwise(plane(gather(selected.index)))
        self._certain, self._ceiling = rowwise(gather(selected.certain)), rowwise(gather(selected.ceiling))
        self._ceiling = torch.where(self._certain > 0, 0.0, self._ceiling)  # which may be infinite there
        self.most = rivals.index_select(1, self._places)
        self.least = self.start = torch.zeros_like(self.most)

    def again(self, gather: Gathered) -> Pooled:
        return Pooled(self._selected, self._shares, gather, self._places)

    def down(self, coefficients: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        flat = rowwise(coefficients)
        rows = flat.shape[0]
        positive, negative = flat.clamp(min=0), flat.clamp(max=0)
        window = self._window.expand(rows, -1)
        total = torch.zeros_like(flat).scatter_add_(1, window, choices)
        scale, own = total.clamp(min=1).reciprocal_(), (1 - total).clamp_(min=0)
        shares = choices * scale.gather(1, window)
        self._kept = positive, negative, total, own, shares
        plane = flat.new_zeros(rows, self._selected.operand[0] * self._size)
        plane.scatter_add_(1, self._rivals.expand(rows, -1), positive.gather(1, window) * shares)
        plane.scatter_add_(1, self._chosen.expand(rows, -1), (positive * own).addcmul_(negative, self._certain))
        passed = plane.reshape(rows, self._selected.operand[0], *self._padded)
        crop = tuple((-before, -after) for before, after in self._selected.pool.padding)
        return pad_spatial(passed, crop), _products(negative, self._ceiling)

    def up(self, operand: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        positive, negative, total, own, shares = self._kept
        rows = positive.shape[0]
        window = self._window.expand(rows, -1)
        plane = rowwise(pad_spatial(operand, self._selected.pool.padding))
        here, first = plane.gather(1, self._rivals.expand(rows, -1)), plane.gather(1, self._chosen.expand(rows, -1))
        mixture = (own * first).scatter_add_(1, window, shares * here)
        # While shares sum up to less than one, a rival takes from the one that crown takes, else from all of them.
        other = torch.addcmul(first, (total - 1).sign_().clamp_(min=0), mixture - first)
        weight = positive / total.clamp(min=1)
        gradient = (here - other.gather(1, window)).mul_(weight.gather(1, window))
        if not wanted:
            return gradient, None
        high = torch.addcmul(self._ceiling, first, self._certain)
        value = torch.addcmul(mixture, negative.sign().neg_(), high - mixture)
        return gradient, value.reshape(rows, *self._selected.index.shape[1:])


def _padded(selected: Selected) -> list[int]:
    extents = zip(selected.operand[1:], selected.pool.padding, strict=True)
    return [extent + before + after for extent, (before, after) in extents]


def _products(rows: Tensor, other: Tensor) -> Tensor:
    """The product of each row `[rows, n]` with its own of `[rows, n]`, or the one of `[1, n]`, `[rows]`."""
    return rows @ other[0] if other.shape[0] == 1 else torch.linalg.vecdot(rows, other)

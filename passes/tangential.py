"""S-shaped functions on the way of rows between tangents that are chosen for each of them, below and above.

A coefficient meets one of the two, by its sign: only that is computed, and only its choice has a derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.kernels.tangents import Taken, taken, taken_back, touch
from irverify.passes.freedom import Free, Tangents
from irverify.passes.lines import Gathered
from irverify.regions.base import rowwise


class Tangential:
    """Choices are where tangents touch, for each element below and then above; a turn (see `turns`)."""

    def __init__(self, below: Tangents, above: Tangents, gather: Gathered) -> None:
        self._sides = below, above
        self._jet = below.jet
        parts = (part for side in self._sides for part in (side.weight, *side.fixed))
        self._lines = torch.stack([rowwise(part) for part in parts], 1)
        """`[examples, 6, elements]`"""
        examples = torch.arange(self._lines.shape[0], device=self._lines.device)
        self._owner: Tensor | None = gather(examples)
        if self._owner.shape[0] == 1:  # of one example, however many rows there are
            self._lines, self._owner = gather(self._lines), None
        self._gather = gather

    @classmethod
    def of(cls, free: Free, gather: Gathered) -> Tangential | None:
        """None where there are no tangents on one of the sides, or they are those of different functions."""
        below, above = free
        if isinstance(below, Tangents) and isinstance(above, Tangents) and below.jet is above.jet:
            return cls(below, above, gather)
        return None

    @property
    def least(self) -> Tensor:
        return self._joined("least")

    @property
    def most(self) -> Tensor:
        return self._joined("most")

    @property
    def start(self) -> Tensor:
        return self._joined("start")

    def _joined(self, name: str) -> Tensor:
        """Made when it is asked for: for many rows it is large."""
        return self._gather(torch.cat([rowwise(getattr(side, name)) for side in self._sides], 1))

    def again(self, gather: Gathered) -> Tangential:
        return Tangential(*self._sides, gather)

    def down(self, coefficients: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        rows = rowwise(coefficients)
        rows = rows if rows.is_contiguous() else rows.contiguous()
        point = touch(rows, choices)
        if point is None:
            below, above = choices.chunk(2, 1)
            point = torch.where(rows < 0, above, below)
        value, slope, self._bend = self._jet(point)
        met = taken(rows, self._owner, self._lines, point, value, slope)
        if met is None:
            free, fixed, constant = self._met(rows)
            steep, height = torch.addcmul(fixed, free, slope), torch.addcmul(constant, free, value - slope * point)
            met = Taken(rows * steep, torch.linalg.vecdot(rows, height), steep, height)
        self._rows, self._point, self._lined = rows, point, (met.slope, met.constant)
        return met.passed.reshape(coefficients.shape), met.constants

    def up(self, operand: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        x, rows, (slope, constant) = rowwise(operand), self._rows, self._lined
        found = taken_back(rows, self._owner, self._lines, self._point, self._bend, (slope, constant), x, wanted=wanted)
        if found is None:
            by = rows * (self._met(rows)[0] * self._bend * (x - self._point))
            gradient = torch.cat([by.masked_fill(rows < 0, 0.0), by.masked_fill(~(rows < 0), 0.0)], 1)
            found = gradient, torch.addcmul(constant, x, slope) if wanted else None
        gradient, value = found
        return gradient, None if value is None else value.reshape(operand.shape)

    def _met(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Of the lines of each row the three parts below or above, by the signs of its coefficients."""
        own = self._lines if self._owner is None else self._lines.index_select(0, self._owner)
        return tuple(torch.where(rows < 0, own[:, 3 + part], own[:, part]) for part in range(3))

"""Lines around a value, in the order in memory in which rows that meet them stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops.memory import planes_last
from irverify.ir.recording import recorded
from irverify.kernels import rows as compiled
from irverify.passes.forms import Columns, Dense, Wide, as_compiled, pieces, products
from irverify.passes.lines import Relaxation, nonzero


@dataclass(frozen=True)
class Lines:
    """The lines of a relaxation: `slope x + base` below and `(slope + rise) x + top` above, each of the shape of the
    value, or of all examples together; None is zero."""

    slope: Tensor
    rise: Tensor | None
    base: Tensor | None
    top: Tensor | None

    @classmethod
    def of(cls, relaxation: Relaxation, examples: int | slice) -> Lines:
        slope, high = relaxation.lower_slope[examples], relaxation.upper_slope[examples]
        rest = (high - slope, relaxation.lower_intercept[examples], relaxation.upper_intercept[examples])
        rise, base, top = (part if nonzero(part) else None for part in rest)
        return cls(slope, rise, base, top)

    @classmethod
    def met(cls, relaxation: Relaxation, examples: int | slice) -> Lines:
        """The same, as rows over all elements or windows of the value stand in memory."""
        found = relaxation.met(examples)
        if found is not None:
            return cls(*found)
        return cls.of(relaxation, examples).stored(relaxation.lower_slope.ndim - 1)

    def stored(self, rank: int) -> Lines:
        """The same around a value of this rank, as rows over all elements or windows of it stand in memory."""
        rest = (self.rise, self.base, self.top)
        return Lines(stored(self.slope, rank), *(None if part is None else stored(part, rank) for part in rest))

    def ordered(self) -> Lines:
        """The same in the order of the value's axes."""
        rest = (self.rise, self.base, self.top)
        return Lines(self.slope.contiguous(), *(None if part is None else part.contiguous() for part in rest))

    def at(self, form: Columns) -> ColumnLines:
        """The lines around the elements at which rows have coefficients."""
        parts = (self.slope, self.rise, self.base, self.top)
        slope, *rest = (None if part is None else form.met(part) for part in parts)
        assert slope is not None
        return ColumnLines(slope, *rest)

    def support(self) -> Tensor:
        """The flat elements where any of them is not zero; of one example."""
        return self.used().reshape(-1).nonzero()[:, 0]

    def used(self) -> Tensor:
        """Whether any of them is not zero, at each element."""
        used = self.slope != 0
        for part in (self.rise, self.base, self.top):
            if part is not None:
                used = used.logical_or_(part != 0)
        return used

    def bend(self, form: Wide, *, spent: bool = False) -> tuple[Wide, Tensor | None]:
        """Rows over the operand, and their constants: the line below where a coefficient is positive, else above. Those
        of a form that is `spent` may be written over."""
        coefficients = form.coefficients
        at_once = self._at_once(form, spent)
        if at_once is not None:
            return at_once
        given = [part for part in (self.slope, self.rise, self.base, self.top) if part is not None]
        if recorded(coefficients, *given):
            passed, constant = self._bent(coefficients, form.at(given), differentiable=True)
            return form.with_coefficients(passed), constant
        parts = pieces(form, given)
        if len(parts) == 1:
            passed, constant = self._bent(coefficients, parts[0][1])
            return form.with_coefficients(passed), constant
        passed = torch.empty_like(coefficients)
        found = [self._bent(coefficients[rows], met, passed[rows])[1] for rows, met in parts]
        constants = [constant for constant in found if constant is not None]
        return form.with_coefficients(passed), torch.cat(constants) if constants else None

    def _at_once(self, form: Wide, spent: bool) -> tuple[Wide, Tensor | None] | None:
        """`bend` by compiled code."""
        told = as_compiled(form, (self.slope, self.rise, self.base, self.top))
        if told is None:
            return None
        spots, (slope, *rest) = told
        assert slope is not None
        found = compiled.bend(form.coefficients, spots, slope, *rest, spent=spent)
        if found is None:
            return None
        passed, constants = found
        return form.with_coefficients(passed), None if self.base is None and self.top is None else constants

    def _bent(
        self, rows: Tensor, met: Sequence[Tensor], into: Tensor | None = None, *, differentiable: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Coefficients passed on, written `into` a tensor where there is one, and constants of rows that meet these
        lines."""
        found = iter(met)
        slope = next(found)
        if len(met) == 1:
            return torch.mul(rows, slope, out=into), None
        negative = torch.clamp(rows, max=0, out=into)
        rise = None if self.rise is None else next(found)
        base = None if self.base is None else products(rows - negative, next(found))
        top = None if self.top is None else products(negative, next(found))
        constant = base if top is None else top if base is None else base + top
        if rise is None:
            return torch.mul(rows, slope, out=into), constant
        if differentiable:
            return torch.addcmul(negative * rise, rows, slope), constant
        return negative.mul_(rise).addcmul_(rows, slope), constant


def stored(x: Tensor, rank: int) -> Tensor:
    """What rows over a value of this rank meet, in the order in memory that they stand in."""
    return planes_last(x) if rank == 3 else x


@dataclass(frozen=True)
class ColumnLines(Lines):
    """Lines around some elements of a value, `[columns]` or `[examples, columns]`, for rows that have coefficients for
    these."""

    def bend(self, form: Wide, *, spent: bool = False) -> tuple[Wide, Tensor | None]:
        passed, constant = super().bend(Dense(form.coefficients, form.owner), spent=spent)
        return form.with_coefficients(passed.coefficients), constant

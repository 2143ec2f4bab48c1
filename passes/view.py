"""What rows over values meet on their way to the inputs: lines around nonlinear values, and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops import Reshape
from irverify.ir.ops.memory import planes_last
from irverify.ir.recording import recorded
from irverify.kernels import rows as compiled
from irverify.passes.backward import Context
from irverify.passes.forms import Wide, as_compiled, pieces, products
from irverify.passes.lines import nonzero
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import Relaxation


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
        rank = relaxation.lower_slope.ndim - 1
        rise, base, top = (stored(part, rank) if nonzero(part) else None for part in rest)
        return cls(stored(slope, rank), rise, base, top)

    def support(self) -> Tensor:
        """The flat elements where any of them is not zero; of one example."""
        used = torch.stack([part != 0 for part in (self.slope, self.rise, self.base, self.top) if part is not None])
        return used.any(0).reshape(-1).nonzero()[:, 0]

    def bend(self, form: Wide) -> tuple[Wide, Tensor | None]:
        """Rows over the operand, and their constants: the line below where a coefficient is positive, else above."""
        coefficients = form.coefficients
        at_once = self._at_once(form)
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

    def _at_once(self, form: Wide) -> tuple[Wide, Tensor | None] | None:
        """`bend` by compiled code."""
        told = as_compiled(form, (self.slope, self.rise, self.base, self.top))
        if told is None:
            return None
        spots, (slope, *rest) = told
        assert slope is not None
        found = compiled.bend(form.coefficients, spots, slope, *rest)
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


@dataclass
class Looks:
    """At how many elements sweeps have looked on their way, and how many of them were decided there."""

    elements: int = 0
    decided: int = 0

    def note(self, elements: int, decided: int) -> None:
        self.elements += elements
        self.decided += decided

    def pay(self, least: int, share: float) -> bool:
        """Whether more than this share was decided; nobody knows before `least` elements."""
        return self.elements < least or self.decided > share * self.elements


class View:
    """What rows of one example meet, or with `example` None those of any: lines, and intervals of the values before the
    target."""

    def __init__(self, context: Context, example: int | None, intervals: Mapping[str, Interval]) -> None:
        self.context = context
        self.example = example
        self._chosen: int | slice = slice(None) if example is None else example
        self._intervals = intervals
        self._lines: dict[str, Lines | None] = {}
        self._boxes: dict[str, tuple[Tensor, Tensor]] = {}
        self._supports: dict[str, Tensor | None] = {}
        self._single: dict[int, View] = {}
        self.looks = Looks()

    def single(self, example: int) -> View:
        """The view of one of all examples; made once."""
        if example not in self._single:
            self._single[example] = View(self.context, example, self._intervals)
        return self._single[example]

    def lines(self, name: str) -> Lines | None:
        """The lines around a node, or around what a shortcut leads over; None where it has none of the plain kind."""
        if name not in self._lines:
            shortcut = self.context.shortcuts.get(name)
            relaxed = self.context.relaxed.get(name) if shortcut is None else shortcut.lines
            plain = type(relaxed) is Relaxation
            self._lines[name] = Lines.of(relaxed, self._chosen) if plain else None  # type: ignore[arg-type]
        return self._lines[name]

    def box(self, name: str) -> tuple[Tensor, Tensor]:
        """Centre and radius of the bounds of a value."""
        if name not in self._boxes:
            behind = (end.interval for end in self.context.shortcuts.values() if end.operand == name)
            lower, upper = (side[self._chosen] for side in next(behind, self._intervals[name]))
            rank = len(self.context.graph[name].type.shape)
            self._boxes[name] = stored((lower + upper) / 2, rank), stored((upper - lower) / 2, rank)
        return self._boxes[name]

    def known(self, name: str) -> Tensor:
        """A value that is known exactly."""
        return self.context.known[name][self._chosen]

    def support(self, name: str) -> Tensor | None:
        """The flat elements of a value that rows over it can pass on from; None where all may."""
        while self.example is not None and name not in self.context.known:
            node = self.context.graph[name]
            if not isinstance(node.op, Reshape) or name in self.context.shortcuts:
                lines = self.lines(name)
                if lines is None:
                    return None
                if name not in self._supports:
                    found = lines.support()
                    self._supports[name] = None if found.shape[0] == node.type.size else found
                return self._supports[name]
            (name,) = node.inputs
        return None

    def gathered(self, tensor: Tensor, owner: Tensor | None = None) -> Tensor:
        """A tensor `[batch, ...]` for each row, or `[1, ...]` for all of one example."""
        if self.example is None:
            return tensor if owner is None else tensor.index_select(0, owner)
        return tensor[self.example : self.example + 1]

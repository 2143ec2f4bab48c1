"""Rows past a node whose lines are chosen for each row, and the gradient of what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from irverify.ir.first_order import first_order
from irverify.passes.freedom import Family, Free, Line
from irverify.passes.lines import Gathered, Relaxation
from irverify.regions.base import rowwise


class Steering:
    """The lines around one node for rows: those that are free by choice, the others as the relaxation has them.

    `gather` takes tensors `[batch, *shape]` to the coefficients of the rows. The choices are those that `take` was
    given last, one tensor for each of the `families`; at first those of the relaxation."""

    def __init__(self, relaxation: Relaxation, free: Free, gather: Gathered) -> None:
        self._below = None if free.below is None else free.below.gathered(gather)
        self._above = None if free.above is None else free.above.gathered(gather)
        self._fixed = (
            None if self._below else Line(gather(relaxation.lower_slope), gather(relaxation.lower_intercept)),
            None if self._above else Line(gather(relaxation.upper_slope), gather(relaxation.upper_intercept)),
        )
        self.families = [family for family in (self._below, self._above) if family is not None]
        self._choices: Sequence[Tensor] = [family.start for family in self.families]

    def take(self, choices: Sequence[Tensor]) -> None:
        self._choices = choices

    def bend(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients over the operand and the constants `[rows]`."""
        rest = iter(self._choices)
        below = self._fixed[0] or _line(self._below, next(rest))
        above = self._fixed[1] or _line(self._above, next(rest))
        passed, constant = _Bend.apply(coefficients, *below, *above)  # type: ignore[no-untyped-call]
        return passed, constant

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        """The same as the backward engine asks for it."""
        passed, constant = self.bend(coefficients)
        return (passed,), constant


def _line(family: Family | None, choice: Tensor) -> Line:
    assert family is not None
    return family.line(choice)


class _Bend(torch.autograd.Function):
    """`a s` and the sum of `a t` for each row, with the line (s, t) below where a >= 0 and the one above elsewhere.

    Without masks: on a CPU, arithmetic is several times faster than comparing and choosing.
    """

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, below: Tensor, base: Tensor | None, above: Tensor, top: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        passed = (positive * below).addcmul_(negative, above)
        constant = coefficients.new_zeros(coefficients.shape[0])
        for part, intercept in ((positive, base), (negative, top)):
            if intercept is not None:
                constant = constant + torch.linalg.vecdot(rowwise(part), rowwise(intercept))
        ctx.save_for_backward(positive, negative, below, base, above, top)
        return passed, constant

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        positive, negative, below, base, above, top = ctx.saved_tensors
        passed, constant = gradients[0], gradients[1].reshape(-1, *(1,) * (positive.ndim - 1))
        onward = None
        if ctx.needs_input_grad[0]:
            upper = negative.sign().neg_()  # 1 where the line above counts
            onward = passed * torch.addcmul(below, upper, above - below)
            if base is not None or top is not None:
                zero = positive.new_zeros(())
                base, top = zero if base is None else base, zero if top is None else top
                onward.addcmul_(constant, torch.addcmul(base, upper, top - base))
        sides = ((passed, positive), (constant, positive), (passed, negative), (constant, negative))
        found = [
            first * second if wanted else None
            for (first, second), wanted in zip(sides, ctx.needs_input_grad[1:], strict=True)
        ]
        return onward, *found

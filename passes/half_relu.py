"""How far a ReLU moves while its operand is within v of z_nom, by paper 3, in few steps over memory.

With the gap of the lines with lower slope 0, cut to what is possible,

    t = min(max((z_nom + v) / 2, 0), v)                                       (paper 3, eq. 8, all three cases at once)

which is v where the ReLU is active and 0 where it is inactive, parallel lines have `t (2 - t / v)` (eq. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from irverify.ir.first_order import first_order
from irverify.ir.ops.memory import stored_as
from irverify.kernels import halves
from irverify.passes.lines import Choice

TINY = 1e-15
"""What v is taken as at least where it divides; its square is a normal number in single precision."""

Kept: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""`relu(z_nom)`, v after the ReLU, and what else their gradients need."""


def half_relu(center: Tensor, gap: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """`relu(z_nom)`, and v after a ReLU with lower slope 0 (`zero`), or else with parallel lines."""
    found: tuple[Tensor, Tensor] = _Curved.apply(center, gap, curve(choice))  # type: ignore[no-untyped-call]
    return found


class Curve(Protocol):
    """What `half_relu` computes, and its gradient. Where memory is `free`, results take that of the arguments."""

    def ahead(self, center: Tensor, gap: Tensor, free: bool) -> Kept:
        """The results, and what `back` needs besides."""

    def back(self, kept: Sequence[Tensor], outer: Tensor, inner: Tensor, free: bool) -> tuple[Tensor, Tensor]:
        """The gradients in z_nom and v before the ReLU, from those after it."""


def curve(choice: Choice) -> Curve:
    return Zero() if choice == "zero" else Parallel()


class Zero:
    """Eq. 8. `(z_nom + v) / 2` is positive but where the ReLU is inactive, and above t where it is active, also where v
    is 0."""

    def ahead(self, center: Tensor, gap: Tensor, free: bool) -> Kept:
        if (kept := halves.half_zero(center, gap, free=free)) is not None:
            return kept
        half = torch.lerp(center, gap, 0.5)
        found = _cut(half, gap, gap if free else None)
        return _relu(center, free), found, half

    def back(self, kept: Sequence[Tensor], outer: Tensor, inner: Tensor, free: bool) -> tuple[Tensor, Tensor]:
        """Slopes 1/2 and 1/2 in z_nom and v where the ReLU is unstable, 0 and 1 where it is active."""
        result, found, half = kept
        outer, inner = stored_as(result, outer), stored_as(result, inner)
        if (gradients := halves.half_zero_back(kept, outer, inner, free=free)) is not None:
            return gradients
        above = half - found
        active = _passed(inner, above, above)
        moving = _passed(inner, half, inner if free else None)
        by_gap = torch.lerp(moving, active, 0.5, out=active)
        return _passed(outer, result, outer if free else None).add_(moving).sub_(by_gap), by_gap


class Parallel:
    """Eq. 7, by the slope s = t / v of both lines: `v s (2 - s)`."""

    def ahead(self, center: Tensor, gap: Tensor, free: bool) -> Kept:
        if (kept := halves.half_parallel(center, gap, free=free)) is not None:
            return kept
        width = gap.clamp(min=TINY)
        half = torch.lerp(center, width, 0.5)
        slope = _cut(half, width, half).div_(width)
        found = torch.rsub(slope, 2).mul_(slope).mul_(gap)
        return _relu(center, free), found, slope

    def back(self, kept: Sequence[Tensor], outer: Tensor, inner: Tensor, free: bool) -> tuple[Tensor, Tensor]:
        """With `s = (z_nom + v) / (2 v)`: slopes `1 - s` and `1 - s (1 - s)`; 0 and 1 where the ReLU is active."""
        result, _, slope = kept
        outer, inner = stored_as(result, outer), stored_as(result, inner)
        if (gradients := halves.half_parallel_back((result, slope), outer, inner, free=free)) is not None:
            return gradients
        inner = _passed(inner, slope, inner if free else None)
        by_center = torch.addcmul(inner, inner, slope, value=-1)
        by_gap = torch.addcmul(inner, by_center, slope, value=-1, out=inner)
        return _passed(outer, result, outer if free else None).add_(by_center), by_gap


class _Curved(Function):
    """A curve as a function."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, gap: Tensor, curve: Curve) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            kept = curve.ahead(center, gap, False)
        ctx.save_for_backward(*kept)
        ctx.curve = curve
        return kept[0], kept[1]

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        outer, inner = gradients
        return *ctx.curve.back(ctx.saved_tensors, outer, inner, False), None


def _relu(x: Tensor, free: bool) -> Tensor:
    return x.relu_() if free else x.relu()


def _cut(half: Tensor, gap: Tensor, out: Tensor | None) -> Tensor:
    """t, from `(z_nom + v) / 2`."""
    return torch.clamp(half, half.new_zeros(()).expand_as(half), gap, out=out)


def _passed(x: Tensor, y: Tensor, out: Tensor | None) -> Tensor:
    """x where y is positive, else 0."""
    threshold = torch.ops.aten.threshold_backward
    found: Tensor = threshold.default(x, y, 0) if out is None else threshold.grad_input(x, y, 0, grad_input=out)
    return found

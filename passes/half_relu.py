"""How far a ReLU moves while its operand is within v of z_nom, by paper 3, in few steps over memory.

With the gap of the lines with lower slope 0, cut to what is possible,

    t = min(max((z_nom + v) / 2, 0), v)                                       (paper 3, eq. 8, all three cases at once)

which is v where the ReLU is active and 0 where it is inactive, parallel lines have `t (2 - t / v)` (eq. 7).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from irverify.ir.ops.memory import stored_as
from irverify.passes.lines import Choice

TINY = 1e-15
"""What v is taken as at least where it divides; its square is a normal number in single precision."""

passed = torch.ops.aten.threshold_backward
"""`passed(x, y, 0)`: x where y is positive, else 0."""


def half_relu(center: Tensor, gap: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """`relu(z_nom)`, and v after a ReLU with lower slope 0 (`zero`), or else with parallel lines."""
    found: tuple[Tensor, Tensor] = (_Zero if choice == "zero" else _Parallel).apply(center, gap)  # type: ignore[no-untyped-call]
    return found


def _cut(half: Tensor, gap: Tensor) -> Tensor:
    """t, from `(z_nom + v) / 2`."""
    return torch.clamp(half, half.new_zeros(()).expand_as(half), gap)


class _Zero(Function):
    """Eq. 8. `(z_nom + v) / 2` is positive but where the ReLU is inactive, and above t where it is active, also where v
    is 0."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            result, half = center.relu(), torch.lerp(center, gap, 0.5)
            found = _cut(half, gap)
        ctx.save_for_backward(result, half, found)
        return result, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes 1/2 and 1/2 in z_nom and v where the ReLU is unstable, 0 and 1 where it is active."""
        result, half, found = ctx.saved_tensors
        outer, inner = (stored_as(result, gradient) for gradient in gradients)
        moving, active = passed(inner, half, 0), passed(inner, half - found, 0)
        by_gap = torch.lerp(moving, active, 0.5, out=active)
        return passed(outer, result, 0).add_(moving).sub_(by_gap), by_gap


class _Parallel(Function):
    """Eq. 7, by the slope s = t / v of both lines: `v s (2 - s)`."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            width = gap.clamp(min=TINY)
            result, slope = center.relu(), _cut(torch.lerp(center, width, 0.5), width).div_(width)
            found = torch.rsub(slope, 2).mul_(slope).mul_(gap)
        ctx.save_for_backward(result, slope)
        return result, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """With `s = (z_nom + v) / (2 v)`: slopes `1 - s` and `1 - s (1 - s)`; 0 and 1 where the ReLU is active."""
        result, slope = ctx.saved_tensors
        outer, inner = (stored_as(result, gradient) for gradient in gradients)
        inner = passed(inner, slope, 0)
        by_center = torch.addcmul(inner, inner, slope, value=-1)
        return passed(outer, result, 0).add_(by_center), torch.addcmul(inner, by_center, slope, value=-1)

"""How far ReLUs move (`irverify.passes.half_relu`), and the gradients, element by element in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.kernels.native import alike, head, native


def half_zero(center: Tensor, gap: Tensor, *, free: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """`Zero.ahead`."""
    return _ahead("half_zero", center, gap, free)


def half_parallel(center: Tensor, gap: Tensor, *, free: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """`Parallel.ahead`."""
    return _ahead("half_parallel", center, gap, free)


def half_zero_back(kept: Sequence[Tensor], outer: Tensor, inner: Tensor, *, free: bool) -> tuple[Tensor, Tensor] | None:
    """`Zero.back`."""
    return _back("half_zero_back", kept, outer, inner, free)


def half_parallel_back(
    kept: Sequence[Tensor], outer: Tensor, inner: Tensor, *, free: bool
) -> tuple[Tensor, Tensor] | None:
    """`Parallel.back`, of result and slope."""
    return _back("half_parallel_back", kept, outer, inner, free)


def _ahead(name: str, center: Tensor, gap: Tensor, free: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    found = alike(center, gap)
    if found is None:
        return None
    result, moved = (center, gap) if free else (torch.empty_like(center), torch.empty_like(gap))
    rest = torch.empty_like(center)
    places = [tensor.data_ptr() for tensor in (result, moved, rest)]
    getattr(native, name)(*head(center), center.numel(), *found, *places)
    return result, moved, rest


def _back(name: str, kept: Sequence[Tensor], outer: Tensor, inner: Tensor, free: bool) -> tuple[Tensor, Tensor] | None:
    found = alike(*kept, outer, inner)
    if found is None:
        return None
    of_center, of_gap = (outer, inner) if free else (torch.empty_like(outer), torch.empty_like(inner))
    getattr(native, name)(*head(outer), outer.numel(), *found, of_center.data_ptr(), of_gap.data_ptr())
    return of_center, of_gap

"""The adjoint of a convolution as one product with the weight, whose parts are added at the places that each tap of the
kernel reaches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

BLOCK = 2**19
"""How many elements are moved at once."""


@dataclass(frozen=True)
class Steps:
    """How the windows of a convolution move."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def covered(self, windows: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The extents that so many windows of a kernel cover."""
        axes = zip(windows, kernel, self.stride, self.dilation, strict=True)
        return tuple((n - 1) * stride + dilation * (k - 1) + 1 for n, k, stride, dilation in axes)


def tap_by_tap(rows: Tensor, weight: Tensor, steps: Steps, first: Sequence[int], extents: Sequence[int]) -> Tensor:
    """`rows` `[rows, out, *windows]` through the adjoint of a convolution of one group with `weight`, `[rows, in,
    *extents]`, where the first window begins `first` elements before the operand."""
    found = rows.new_empty(rows.shape[0], weight.shape[1], *extents)
    step = max(1, BLOCK * rows.shape[0] // (rows.numel() * weight[0].numel() // weight.shape[0] + 1))
    for part, place in zip(rows.split(step), found.split(step), strict=True):
        _some(part, weight, steps, first, place)
    return found


def _some(rows: Tensor, weight: Tensor, steps: Steps, first: Sequence[int], found: Tensor) -> None:
    """The rows stand last meanwhile, so that everything is done on long runs."""
    count, out = rows.shape[:2]
    channels, kernel, windows = weight.shape[1], tuple(weight.shape[2:]), tuple(rows.shape[2:])
    extents = found.shape[2:]
    columns = weight.flatten(1).t() @ rows.reshape(count, -1).t().reshape(out, -1)
    taps = columns.reshape(channels, *kernel, *windows, count)
    reach = [
        max(n, before + extent)
        for n, before, extent in zip(steps.covered(windows, kernel), first, extents, strict=True)
    ]
    before = [max(0, -shift) for shift in first]
    total = rows.new_zeros(channels, *(n + shift for n, shift in zip(reach, before, strict=True)), count)
    for number, tap in enumerate(itertools.product(*map(range, kernel))):
        places: list[slice] = [
            slice(own + k * dilation, own + k * dilation + (n - 1) * stride + 1, stride)
            for own, k, dilation, n, stride in zip(before, tap, steps.dilation, windows, steps.stride, strict=True)
        ]
        total[(slice(None), *places)].add_(taps.flatten(1, len(kernel)).select(1, number))
    inside: list[slice] = [
        slice(shift + own, shift + own + extent) for own, shift, extent in zip(before, first, extents, strict=True)
    ]
    found.view(count, -1).copy_(total[(slice(None), *inside)].reshape(-1, count).t())

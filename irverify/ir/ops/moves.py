"""How the windows of a convolution move, as torch is told.

Windows of one element that move by more than one meet every so manieth element only, and torch is given no others: on a
CPU, with few channels that stand last, its gradient in such a weight is written beyond its memory (oneDNN, issue 6035).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

from irverify.ir.ops.padding import Pairs, pad_spatial


def skips(kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether windows are of one element and leave some out."""
    return math.prod(kernel) == 1 and max(stride) > 1


@dataclass(frozen=True)
class Moves:
    """What torch is told: `stride`, `padding` and `dilation` over `operand(x)`, which is x padded by `around`, of which
    each axis has every `every`-th element."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    around: Pairs
    every: tuple[int, ...]

    @classmethod
    @lru_cache(maxsize=2**10)
    def of(cls, kernel: Sequence[int], stride: tuple[int, ...], padding: Pairs, dilation: tuple[int, ...]) -> Moves:
        ones = (1,) * len(stride)
        if skips(kernel, stride):
            return cls(ones, (0,) * len(stride), ones, padding, stride)
        if all(before == after >= 0 for before, after in padding):
            return cls(stride, tuple(before for before, _ in padding), dilation, (), ones)
        return cls(stride, (0,) * len(stride), dilation, padding, ones)

    @cached_property
    def plain(self) -> bool:
        """Torch reads x itself."""
        return not self.around and max(self.every) == 1

    def operand(self, x: Tensor) -> Tensor:
        """What torch reads of x `[..., *spatial]`."""
        return x if self.plain else every(pad_spatial(x, self.around), self.every)


def every(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Each so manieth element along the last axes of x, from the first on; a view."""
    if max(steps) == 1:
        return x
    axes: list[slice] = [slice(None)] * (x.ndim - len(steps))
    return x[(*axes, *(slice(None, None, step) for step in steps))]


def apart(x: Tensor, steps: Sequence[int]) -> Tensor:
    """x with zeros between its elements, of which `every` takes x again."""
    rest = x.ndim - len(steps)
    extents = [(n - 1) * step + 1 for n, step in zip(x.shape[rest:], steps, strict=True)]
    found = x.new_zeros(*x.shape[:rest], *extents)
    every(found, steps).copy_(x)
    return found

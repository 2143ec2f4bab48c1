"""The adjoint of a convolution whose windows move by more than one element, as a convolution into blocks.

Blocks of as many places as windows move by meet the same taps of the same windows, so that one convolution with a
channel for each place of a block finds all of them; then these channels take their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from irverify.ir.ops.memory import channels_last, stands_last, zeros_as
from irverify.ir.ops.padding import Pairs, pad_spatial


def _conv2d(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """PyTorch's. One channel has plain strides: with those of channels that stand last oneDNN gives wrong results of
    one column for steps above 1 (PyTorch 2.13)."""
    if x.shape[1] == 1:
        x, weight = x.squeeze(1).unsqueeze(1), weight.squeeze(1).unsqueeze(1)
    return functional.conv2d(x, weight, *options)


CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: _conv2d, 3: functional.conv3d}


@dataclass(frozen=True)
class Along:
    """One axis: place `stride * b + f` of the operand meets tap `f + first + stride * d` of window `b - d`, for the d
    from `least` to `most`."""

    stride: int
    first: int
    kernel: int
    windows: int
    extent: int

    @property
    def least(self) -> int:
        return -((self.first + self.stride - 1) // self.stride)

    @property
    def most(self) -> int:
        return (self.kernel - 1 - self.first) // self.stride

    @property
    def span(self) -> int:
        """How many windows a block meets."""
        return self.most - self.least + 1

    @property
    def blocks(self) -> int:
        return -(-self.extent // self.stride)

    @property
    def missing(self) -> tuple[int, int]:
        """Taps that the kernel lacks before and after those of all places of a block."""
        reach = self.first + self.stride * self.least
        return -reach, reach + self.stride * self.span - self.kernel

    @property
    def beyond(self) -> tuple[int, int]:
        """Windows that the blocks meet before the first and after the last."""
        return self.most, self.blocks + self.span - 1 - self.most - self.windows


def in_blocks(
    rows: Tensor, weight: Tensor, stride: Sequence[int], first: Sequence[int], extents: Sequence[int]
) -> Tensor:
    """`rows` `[rows, out, *windows]` through the adjoint of a convolution with `weight`, `[rows, in, *extents]`, where
    the first window begins `first` elements before the operand. Stored as the rows are."""
    axes = [Along(*sizes) for sizes in zip(stride, first, weight.shape[2:], rows.shape[2:], extents, strict=True)]
    beyond = tuple(axis.beyond for axis in axes)
    even = all(before == after >= 0 for before, after in beyond)
    padding = tuple(before for before, _ in beyond) if even else 0
    operand = filled(channels_last(rows), () if even else beyond)
    found = CONV[len(axes)](operand, _kernel(weight, axes), None, 1, padding)[: rows.shape[0]]
    return _placed(found, axes, weight.shape[1], last=stands_last(rows))


def _kernel(weight: Tensor, axes: Sequence[Along]) -> Tensor:
    """The weight of the convolution into blocks, `[places * in, out, *spans]`."""
    count = len(axes)
    split = [size for axis in axes for size in (axis.span, axis.stride)]
    taps = pad_spatial(weight, tuple(axis.missing for axis in axes)).reshape(*weight.shape[:2], *split)
    spans, places = range(2, 2 * count + 2, 2), range(3, 2 * count + 2, 2)
    return taps.permute(*places, 1, 0, *spans).flip(tuple(range(count + 2, 2 * count + 2))).flatten(0, count)


def _placed(found: Tensor, axes: Sequence[Along], channels: int, *, last: bool) -> Tensor:
    """What was found for each place of each block `[rows, places * channels, *blocks]` in its place, `[rows, channels,
    *extents]`."""
    count, rows = len(axes), found.shape[0]
    parts = found.reshape(rows, *(axis.stride for axis in axes), channels, *(axis.blocks for axis in axes))
    order = [place for axis in range(1, count + 1) for place in (axis + count + 1, axis)]
    whole = [axis.blocks * axis.stride for axis in axes]
    inside: list[slice] = [slice(axis.extent) for axis in axes]
    if last:
        placed = parts.permute(0, *order, count + 1).reshape(rows, *whole, channels)
        return placed[(slice(None), *inside)].contiguous().movedim(-1, 1)
    placed = parts.permute(0, count + 1, *order).reshape(rows, channels, *whole)
    return placed[(slice(None), slice(None), *inside)].contiguous()


def spaced(rows: Tensor, weight: Tensor, stride: Sequence[int], extents: Sequence[int]) -> Tensor:
    """The same for a kernel of one element, and windows that begin with the first element: zero between them."""
    found = zeros_as(rows, weight.shape[1], extents)
    every: list[slice] = [slice(None), slice(None), *(slice(None, None, step) for step in stride)]
    target = found[tuple(every)]
    inside: list[slice] = [slice(min(n, own)) for n, own in zip(target.shape[2:], rows.shape[2:], strict=True)]
    passed = rows[(slice(None), slice(None), *inside)].movedim(1, -1) @ weight.flatten(1)
    target[(slice(None), slice(None), *inside)] = passed.movedim(-1, 1)
    return found


def filled(rows: Tensor, padding: Pairs = ()) -> Tensor:
    """With zero rows up to one of a few counts, since the library compiles code for each shape that it meets; padded as
    by `pad_spatial`, and stored as the rows are."""
    count = rows.shape[0]
    missing = -count % 2 ** max(0, count.bit_length() - 4)
    if missing == 0 or min(map(min, padding), default=0) < 0:
        rows, padding = pad_spatial(rows, padding), ()
    if missing == 0:
        return rows
    around = [amount for pair in reversed(padding) for amount in pair]
    return functional.pad(rows, [*around, *(0, 0) * (rows.ndim - 1 - len(padding)), 0, missing])

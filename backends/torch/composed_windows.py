"""Rows of a convolution over ReLUs and convolutions before it, as windows: one for each position and output channel.

With taps k of the last kernel W and the rows V_k of the convolution before it, the coefficients of position p over what
that one reads are `sum_k W_ik A_pk V_kj`, A the active ReLUs under the window: products of zeros and ones, different
for each example and position, with `W_ik V_kj`, which is the same for all and is formed once. Window elements j that
the same taps reach go together, so that no product is with a zero of V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d, unfold

from irverify.ir.ops import Conv
from irverify.ir.ops.padding import pad_spatial
from irverify.ir.params import value


class Grid(NamedTuple):
    """Windows of some extents, one for each of `positions`, over a plane that begins `before` elements earlier."""

    extents: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    positions: tuple[int, ...]

    def over(self, op: Conv) -> Grid:
        """The windows over what a convolution reads, from those over its result."""
        kernel = value(op.weight).shape[2:]
        axes = range(len(kernel))
        return Grid(
            tuple((self.extents[axis] - 1) * op.stride[axis] + kernel[axis] for axis in axes),
            tuple(self.stride[axis] * op.stride[axis] for axis in axes),
            tuple(self.before[axis] * op.stride[axis] + op.padding[axis][0] for axis in axes),
            self.positions,
        )

    def cut(self, tensor: Tensor) -> Tensor:
        """What stands in each window, `[batch, positions, channels * extents]`, 0 beyond the plane."""
        pairs = []
        for axis, extent in enumerate(tensor.shape[2:]):
            reached = (self.positions[axis] - 1) * self.stride[axis] + self.extents[axis]
            pairs.append((self.before[axis], reached - self.before[axis] - extent))
        return unfold(pad_spatial(tensor, tuple(pairs)), self.extents, stride=self.stride).mT


@dataclass(frozen=True)
class WindowRows:
    """The rows of the last convolution; `grids` over what each of `convolutions` reads, the last one first."""

    convolutions: tuple[Conv, ...]
    grids: tuple[Grid, ...]
    size: int
    """How many coefficients an example has at most."""

    def radius(self, active: Sequence[Tensor], radii: Sequence[Tensor]) -> Tensor:
        """`|W A V| r` and so on down to the input, `[batch, channels, *positions]`. `active` are the ReLUs after each
        convolution but the last, and `radii` what each of these reads."""
        last, *rest = self.convolutions
        rows, batch = value(last.weight).flatten(1), radii[0].shape[0]
        mask, reach = self.grids[0].cut(active[-1]), self.grids[1].cut(radii[-1])
        total = mask.new_zeros(batch, mask.shape[1], rows.shape[0])
        found, order = [], []
        for taps, window in _reached(self.grids[0].extents, rest[0]):
            taps, window = taps.to(rows.device), window.to(rows.device)
            through = _windows_of_taps(self.grids[0].extents, rest[0], taps)[:, window]
            product = (rows[:, taps].T.unsqueeze(2) * through.unsqueeze(1)).flatten(1)
            some = torch.matmul(mask[:, :, taps], product).unflatten(2, (rows.shape[0], -1))
            total = total + torch.matmul(some.abs(), reach[:, :, window].unsqueeze(3)).squeeze(3)
            found.append(some)
            order.append(window)
        if len(rest) > 1:
            coefficients = torch.cat(found, 3)[..., torch.cat(order).argsort()]
            total = total + self._deeper(coefficients, active[:-1], radii[:-1])
        placed: Tensor = total.mT.unflatten(2, self.grids[0].positions)
        return placed

    def _deeper(self, rows: Tensor, active: Sequence[Tensor], radii: Sequence[Tensor]) -> Tensor:
        """The same for rows `[batch, positions, rows, window]` that have come further."""
        total = rows.new_zeros(rows.shape[:3])
        steps = zip(
            self.convolutions[2:], self.grids[1:-1], self.grids[2:], reversed(active), reversed(radii), strict=True
        )
        for op, own, before, mask, radius in steps:
            weight = value(op.weight)
            masked = (rows * own.cut(mask).unsqueeze(2)).flatten(0, 2)
            passed = conv_transpose2d(masked.unflatten(1, (weight.shape[0], *own.extents)), weight, stride=op.stride)
            rows = passed.flatten(1).unflatten(0, rows.shape[:3])
            total = total + torch.matmul(rows.abs(), before.cut(radius).unsqueeze(3)).squeeze(3)
        return total


def windowed(
    convolutions: Sequence[Conv | None], planes: Sequence[tuple[int, ...]], positions: tuple[int, ...]
) -> WindowRows | None:
    """The rows of the last of these layers, one at each of `positions`; None where they are no windows, or windows as
    wide as a plane. `planes` are the extents of what each layer reads; the first one reads the input."""
    found = tuple(op for op in reversed(convolutions) if op is not None)
    if len(found) < len(convolutions):
        return None
    last = value(found[0].weight)
    kernel, before = tuple(last.shape[2:]), tuple(pad for pad, _ in found[0].padding)
    grids, size = [Grid(kernel, found[0].stride, before, positions)], 0
    for op, plane in zip(found[1:], planes[-2::-1], strict=True):
        grids.append(grids[-1].over(op))
        window = math.prod(grids[-1].extents)
        if window >= math.prod(plane):
            return None
        size = max(size, math.prod(positions) * last.shape[0] * value(op.weight).shape[1] * window)
    return WindowRows(found, tuple(grids), size)


def _windows_of_taps(extents: tuple[int, ...], op: Conv, taps: Tensor) -> Tensor:
    """The row of a convolution for each of some elements of a window over its result, over the window before it."""
    weight = value(op.weight)
    unit = torch.nn.functional.one_hot(taps, weight.shape[0] * math.prod(extents)).to(weight.dtype)
    return conv_transpose2d(unit.reshape(-1, weight.shape[0], *extents), weight, stride=op.stride).flatten(1)


def _reached(extents: tuple[int, ...], op: Conv) -> tuple[tuple[Tensor, Tensor], ...]:
    weight = value(op.weight)
    return _reached_by(extents, tuple(weight.shape), op.stride)


@lru_cache(maxsize=64)
def _reached_by(
    extents: tuple[int, ...], shape: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[Tensor, Tensor], ...]:
    """The elements of the window before a convolution, grouped by the taps that reach them: pairs (taps, elements)."""
    with torch.no_grad():
        plane = math.prod(extents)
        unit = torch.eye(plane).reshape(plane, 1, *extents)
        reached = conv_transpose2d(unit, torch.ones(1, 1, *shape[2:]), stride=stride).flatten(1) > 0
        patterns, group = torch.unique(reached, dim=1, return_inverse=True)
    channels, inputs = torch.arange(shape[0]), torch.arange(shape[1])
    found = []
    for index in range(patterns.shape[1]):
        taps = patterns[:, index].nonzero()[:, 0]
        places = (group == index).nonzero()[:, 0]
        found.append((
            (channels[:, None] * plane + taps).flatten(),
            (inputs[:, None] * reached.shape[1] + places).flatten(),
        ))  # fmt: skip
    return tuple(found)

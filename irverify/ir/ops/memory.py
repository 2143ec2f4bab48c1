"""The order of values in memory: with the channels last where a CPU convolves faster that way.

Steps over tensors in two orders at once take many times as long, so what has been put into one order stays in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from irverify.ir.recording import recorded
from irverify.kernels.adjoint import CHIP

LAST = (torch.float32, torch.float64) if CHIP else (torch.float32,)
"""The element types of rows that are taken through convolutions faster with the channels last in memory, on a CPU."""


def prefers_last(x: Tensor) -> bool:
    """Whether rows like x, `[rows, channels, height, width]`, should stand in memory with the channels last."""
    return x.ndim == 4 and x.is_cpu and x.dtype in LAST


def channels_last(x: Tensor) -> Tensor:
    """The same values `[batch, channels, height, width]` with the channels last in memory where PyTorch convolves them
    faster so, and else x."""
    return settled(x) if x.dtype == torch.float32 and prefers_last(x) else x


def settled(x: Tensor) -> Tensor:
    """Rows in the order that they should stand in, or else in their own. One channel is moved by its strides alone."""
    if not prefers_last(x):
        return x.contiguous()
    if x.shape[1] == 1 and x.is_contiguous():
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def is_last(x: Tensor) -> bool:
    """Whether the axes of planes `[rows, channels, height, width]` stand in memory with the channels last, and not in
    their own order as well."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def in_order(x: Tensor, rank: int, *, last: bool) -> bool:
    """Whether values of this rank, one or several, stand in memory in the order of their axes, one after the other, or
    planes `[channels, height, width]` with the channels `last`."""
    if not last:
        return x.is_contiguous()
    if rank != 3 or x.ndim not in (3, 4):
        return False
    if x.ndim == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    channels, _, width = x.shape
    if x.stride() == (1, width * channels, channels):
        return True
    return x.unsqueeze(0).is_contiguous(memory_format=torch.channels_last)  # axes of one element have any stride


def stands_last(rows: Tensor) -> bool:
    """Whether planes of rows have the channels last in memory, or might as well."""
    return rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)


def zeros_as(rows: Tensor, channels: int, extents: Sequence[int]) -> Tensor:
    """Zero planes `[rows, channels, *extents]`, stored as the rows are."""
    if not stands_last(rows):
        return rows.new_zeros(rows.shape[0], channels, *extents)
    return rows.new_zeros(rows.shape[0], *extents, channels).movedim(-1, 1)


def planes_prefer_last(x: Tensor) -> bool:
    """Whether planes `[..., channels, height, width]` like those of x should have the channels last in memory."""
    return x.ndim >= 3 and x.is_cpu and x.dtype in LAST


def planes_last(x: Tensor) -> Tensor:
    """Planes `[..., channels, height, width]` in the order of rows over them, whatever axes come before them."""
    if not planes_prefer_last(x):
        return x
    before = range(x.ndim - 3)
    stored = x.permute(*before, -2, -1, -3).contiguous()
    return stored.permute(*before, -1, -3, -2)


def taken(x: Tensor, index: Tensor) -> Tensor:
    """The entries `index` of the first axis of x, stored as those of x are."""
    if not is_last(x):
        return x.index_select(0, index)
    return x.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)


def stored_as(like: Tensor, x: Tensor) -> Tensor:
    """The values x in the order of `like`, which has the same shape."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def descending(x: Tensor) -> list[int]:
    """The axes of x from the one with the longest steps in memory to that with the shortest."""
    return sorted(range(x.ndim), key=lambda axis: (x.stride(axis), x.shape[axis]), reverse=True)


def flat_with(x: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Planes `[batch, channels, height, width]` as `[batch, size]`, and a matrix `[out, size]` over flattened planes,
    both in the order in which planes with the channels last are stored."""
    planes = matrix.reshape(-1, *x.shape[1:])
    return x.permute(0, 2, 3, 1).flatten(1), planes.permute(0, 2, 3, 1).flatten(1)


def reshaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x as `[batch, *shape]`, in row-major order; where that takes a copy, the gradient is stored as x is."""
    if x.ndim == 4 and recorded(x) and not x.is_contiguous():
        found: Tensor = _Reshaped.apply(x, tuple(shape))  # type: ignore[no-untyped-call]
        return found
    return x.reshape(x.shape[0], *shape)


class _Reshaped(torch.autograd.Function):
    """A reshape of values with the channels last."""

    # With `setup_context` a call takes three times as long, but without it there is no `torch.func.grad`.

    @staticmethod
    def forward(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.contiguous().reshape(x.shape[0], *shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return channels_last(gradient.reshape(ctx.shape)), None

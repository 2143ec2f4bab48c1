"""The order of values in memory: with the channels last where a CPU convolves faster that way.

Steps over tensors in two orders at once take many times as long, so what has been put into one order stays in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """The same values `[batch, channels, height, width]` with the channels last in memory, in single precision on a
    CPU, and else x. One channel is moved by its strides alone."""
    if x.ndim != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1 and x.is_contiguous():
        return x.reshape(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def stored_as(like: Tensor, x: Tensor) -> Tensor:
    """The values x in the order of `like`, which has the same shape."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def descending(x: Tensor) -> list[int]:
    """The axes of x from the one with the longest steps in memory to that with the shortest."""
    return sorted(range(x.ndim), key=lambda axis: (x.stride(axis), x.shape[axis]), reverse=True)


def reshaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x as `[batch, *shape]`, in row-major order; where that takes a copy, the gradient is stored as x is."""
    if x.ndim == 4 and x.requires_grad and torch.is_grad_enabled() and not x.is_contiguous():
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

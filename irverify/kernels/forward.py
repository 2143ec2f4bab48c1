"""Convolutions of planes with the channels last: little ones, and those of many rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, native

LITTLE, FEW = 2**22, 16
"""For more products than this, and fewer rows or several threads, PyTorch is faster."""


def forward(
    rows: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[tuple[int, int]]
) -> Tensor | None:
    """Rows `[rows, height, width, in]` convolved with `weight` `[out, in, taps, taps]`, and `bias` `[out]` added,
    padded by zeros: `[rows, *windows, out]`. Rows stand in memory one after the other. None where PyTorch is faster, or
    there is no compiled code for these."""
    if rows.ndim != 4 or weight.ndim != 4 or not rows.is_contiguous() or not weight.is_contiguous():
        return None
    (count, *extents, channels), (out, operands, *taps) = rows.shape, weight.shape
    around = zip(extents, taps, stride, padding, strict=True)
    windows = [(n + sum(more) - k) // step + 1 for n, k, step, more in around]
    if min(windows) < 1 or operands != channels:
        return None
    much = count * math.prod(windows) * weight.numel() > LITTLE
    if much and (count < FEW or torch.get_num_threads() > 1):
        return None
    if bias is not None and (bias.shape != (out,) or not bias.is_contiguous()):
        return None
    given = addresses(rows, weight, bias)
    if given is None or native is None:
        return None
    found = rows.new_empty(count, *windows, out)
    numbers = count, out, *windows, *taps, channels, *stride, *(before for before, _ in padding), *extents
    return found if native.forward(*head(rows), *numbers, *given, found.data_ptr()) else None

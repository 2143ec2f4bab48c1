"""Intervals of little convolutions, whose time is what steps of their own for centre and radius take to begin, and of
dense layers of few examples, whose time is that of reading the weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from irverify.kernels.adjoint import CHIP
from irverify.kernels.native import addresses, head, native

LITTLE, EACH = 2**19, 24
"""Up to so many products, with so many more for each element of the result; for more, two convolutions are faster."""
FEW = 6
"""Up to so many examples; for more, two products of matrices are faster."""


def interval(
    lower: Tensor,
    upper: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor] | None:
    """The bounds `[batch, out, *windows]` of a convolution with `weight` `[out, in, taps, taps]` of what lies between
    `lower` and `upper` `[batch, in, height, width]`, padded by zeros, by centre and radius; None where there is more to
    do than a little."""
    if lower.ndim != 4 or lower.shape != upper.shape or min(map(min, padding)) < 0:
        return None
    batch, channels, *extents = lower.shape
    around = [n + before + after for n, (before, after) in zip(extents, padding, strict=True)]
    out, taps = weight.shape[0], weight.shape[2:]
    windows = [(n - k) // step + 1 for n, k, step in zip(around, taps, stride, strict=True)]
    if batch * math.prod(windows) * (weight.numel() + EACH * out) > LITTLE:
        return None
    if weight.shape[1] != channels or min(windows) < 1 or not (bias is None or bias.shape == (out,)):
        return None
    found = addresses(lower, upper, weight, bias)
    parts = (lower, upper, weight) if bias is None else (lower, upper, weight, bias)
    if found is None or native is None or not all(part.is_contiguous() for part in parts):
        return None
    below, above = lower.new_empty(batch, out, *windows), lower.new_empty(batch, out, *windows)
    first = [before for before, _ in padding]
    numbers = batch, out, *windows, *taps, channels, *stride, *first, *extents, *around
    done = native.interval(*head(lower), *numbers, *found, below.data_ptr(), above.data_ptr())
    return (below, above) if done else None


def dense(lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The bounds `[batch, out]` of a dense layer with `weight` `[out, in]` and `bias` `[out]` of what lies between
    `lower` and `upper` `[batch, in]`, by centre and radius; None where there are more than a few examples."""
    if not CHIP or lower.ndim != 2 or lower.shape != upper.shape or not 0 < lower.shape[0] <= FEW:
        return None
    (batch, size), out = lower.shape, weight.shape[0]
    if weight.shape != (out, size) or not size or not out or not (bias is None or bias.shape == (out,)):
        return None
    found = addresses(lower, upper, weight, bias)
    parts = (lower, upper, weight) if bias is None else (lower, upper, weight, bias)
    if found is None or native is None or not all(part.is_contiguous() for part in parts):
        return None
    below, above = lower.new_empty(batch, out), lower.new_empty(batch, out)
    done = native.dense(*head(weight), batch, out, size, *found, below.data_ptr(), above.data_ptr())
    return (below, above) if done else None

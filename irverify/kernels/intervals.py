"""Intervals of little convolutions, whose time is what steps of their own for centre and radius take to begin, and of
dense layers and specifications, without magnitudes of weights in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.kernels.adjoint import CHIP
from irverify.kernels.native import addresses, alike, head, native

LITTLE, EACH = 2**19, 24
"""Up to so many products, with so many more for each element of the result; for more, two convolutions are faster."""
MORE = (1, 4, 16)[CHIP]
"""So many times as many where no threads share the work, by how long the vectors of the processor are."""
SHALLOW = 32
"""Or any number, where an element of the result is the sum of so few products and the vectors are long."""
PADDED = 2**24
"""Up to so many elements of an example with what it is padded by."""
MOST = 64
"""Up to so many examples; for more, two products of matrices are as fast."""

LISTED, SPARSE = 2**12, 8
"""Where rows of an example have more coefficients, and so many times as many of them as there are rows are not zero, a
product of matrices is faster."""


def interval(
    lower: Tensor,
    upper: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    spent: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """The bounds `[batch, out, *windows]` of a convolution with `weight` `[out, in, taps, taps]` of what lies between
    `lower` and `upper` `[batch, in, height, width]`, padded by zeros, by centre and radius; None where there is more to
    do than a little. What is `spent`, each in memory of its own, is written over where the bounds have its shape."""
    if lower.ndim != 4 or lower.shape != upper.shape or min(map(min, padding)) < 0:
        return None
    batch, channels, *extents = lower.shape
    around = [n + before + after for n, (before, after) in zip(extents, padding, strict=True)]
    out, taps = weight.shape[0], weight.shape[2:]
    windows = [(n - k) // step + 1 for n, k, step in zip(around, taps, stride, strict=True)]
    products = batch * math.prod(windows) * (weight.numel() + EACH * out)
    threads = torch.get_num_threads()
    shallow = CHIP > 1 and math.prod(weight.shape[1:]) <= SHALLOW and batch >= threads
    if not CHIP or (products > LITTLE and products > LITTLE * MORE / threads and not shallow):
        return None
    if weight.shape[1] != channels or min(windows) < 1 or not (bias is None or bias.shape == (out,)):
        return None
    if channels * math.prod(around) > PADDED:
        return None
    stride = [min(step, n) for step, n in zip(stride, around, strict=True)]  # beyond the operand there is no window
    found = addresses(lower, upper, weight, bias)
    parts = (weight,) if bias is None else (weight, bias)
    if found is None or native is None or not all(part.is_contiguous() for part in parts):
        return None
    if not (lower.is_contiguous() and upper.is_contiguous()):  # images may come with their channels last
        lower, upper, spent = lower.contiguous(), upper.contiguous(), False
        found[:2] = lower.data_ptr(), upper.data_ptr()
    shape = batch, out, *windows
    if spent and shape == lower.shape:  # each example is read whole before it is written
        below, above = lower, upper
    else:
        below, above = lower.new_empty(shape), lower.new_empty(shape)
    first = [before for before, _ in padding]
    numbers = *shape, *taps, channels, *stride, *first, *extents, *around
    done = native.interval(*head(below), CHIP, *numbers, *found, below.data_ptr(), above.data_ptr())
    return (below, above) if done else None


def dense(lower: Tensor, upper: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The bounds `[batch, out]` of a dense layer with `weight` `[out, in]` and `bias` `[out]` of what lies between
    `lower` and `upper` `[batch, in]`, by centre and radius; None where there are many examples."""
    if not CHIP or lower.ndim != 2 or lower.shape != upper.shape or not 0 < lower.shape[0] <= MOST:
        return None
    (batch, size), out = lower.shape, weight.shape[0]
    if weight.shape != (out, size) or not size or not out or not (bias is None or bias.shape == (out,)):
        return None
    found = addresses(lower, upper, weight, bias)
    parts = (lower, upper, weight) if bias is None else (lower, upper, weight, bias)
    if found is None or native is None or not all(part.is_contiguous() for part in parts):
        return None
    below, above = lower.new_empty(batch, out), lower.new_empty(batch, out)
    done = native.dense(*head(weight), CHIP, batch, out, size, *found, below.data_ptr(), above.data_ptr())
    return (below, above) if done else None


def spec(
    lower: Tensor, upper: Tensor, rows: Tensor, offset: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The bounds `[batch, count]` of rows `[batch, count, out]`, with their constants `offset` `[batch, count]`, over
    what a dense layer with `weight` `[out, in]` and `bias` `[out]` makes of what lies between `lower` and `upper`
    `[batch, in]`; without a weight over that itself. Rows and constants may be those of one example, expanded."""
    if not CHIP or lower.ndim != 2 or lower.shape != upper.shape or rows.ndim != 3 or not lower.numel():
        return None
    (batch, size), (count, out) = lower.shape, rows.shape[1:]
    if rows.shape[0] != batch or offset.shape != (batch, count) or not count or not out:
        return None
    if (out != size or bias is not None) if weight is None else weight.shape != (out, size):
        return None
    if bias is not None and bias.shape != (out,):
        return None
    parts = (lower, upper, rows[0], offset[0], *(part for part in (weight, bias) if part is not None))
    whole = all(part.is_contiguous() for part in parts)
    del parts  # views take more memory than little results
    steps = [0 if batch == 1 else part.stride(0) for part in (rows, offset)]
    apart = all(step == 0 or step == part[0].numel() for step, part in zip(steps, (rows, offset), strict=True))
    found = addresses(lower, upper, rows, offset, weight, bias)
    if found is None or native is None or not apart or not whole:
        return None
    if weight is not None and count * out > LISTED and int(rows.count_nonzero()) > SPARSE * batch * count:
        return None
    below, above = lower.new_empty(batch, count), lower.new_empty(batch, count)
    given = *found[:3], steps[0], found[3], steps[1], *found[4:]
    done = native.spec(*head(lower), batch, count, out, size, *given, below.data_ptr(), above.data_ptr())
    return (below, above) if done else None


def around(center: Tensor, radius: Tensor) -> bool:
    """Writes the bounds `center - radius` to where the radius stands, and `center + radius` to where the centre does;
    False where that is not done. The two are apart in memory."""
    found = alike(center, radius)
    if found is None or native is None:
        return False
    native.around(*head(center), center.numel(), *found)
    return True

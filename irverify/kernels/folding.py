"""The adjoint of a convolution: products with all taps, added up where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, native

NEAR = 2**18
"""So many products at once stay in a near cache."""


def fold(
    rows: Tensor, weight: Tensor, stride: Sequence[int], first: Sequence[int], extents: Sequence[int]
) -> Tensor | None:
    """Rows `[rows, height, width, out]` through the adjoint of a convolution with `weight`, whose first window begins
    `first` elements before the operand: `[rows, *extents, in]`. Rows stand in memory one after the other."""
    if addresses(rows, weight) is None or native is None or not rows.is_contiguous():
        return None
    count, *windows, out = rows.shape
    channels, taps = weight.shape[1], tuple(weight.shape[2:])
    matrix = weight.permute(0, 2, 3, 1).reshape(out, -1)
    step = max(1, NEAR // max(1, windows[0] * windows[1] * matrix.shape[1]))
    found = rows.new_empty(count, *extents, channels)
    columns = rows.new_empty(min(step, count) * windows[0] * windows[1], matrix.shape[1])
    for begin in range(0, count, step):
        some = rows[begin : begin + step]
        products = torch.mm(some.reshape(-1, out), matrix, out=columns[: some.shape[0] * windows[0] * windows[1]])
        target = found[begin : begin + step]
        numbers = *windows, *taps, channels, *stride, *first, *extents
        native.fold(*head(products), some.shape[0], *numbers, products.data_ptr(), target.data_ptr())
    return found

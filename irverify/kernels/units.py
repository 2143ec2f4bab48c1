"""Rows of a convolution for single elements of its result."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native


def unit_rows(
    weight: Tensor,
    elements: Tensor,
    windows: Sequence[int],
    stride: Sequence[int],
    first: Sequence[int],
    extents: Sequence[int],
    *,
    last: bool,
) -> Tensor | None:
    """The kernels of `elements` `[rows]` of the flat result `[out, *windows]` of a convolution with `weight` `[out, in,
    taps, taps]`, whose first window begins `first` elements before the operand: over all of this, `[rows, in,
    *extents]`, with the channels `last` in memory or not."""
    if weight.ndim != 4 or addresses(weight) is None or native is None or elements.ndim != 1:
        return None
    (out, channels, *taps), rows = weight.shape, elements.shape[0]
    if last:
        planes = weight.new_empty(rows, *extents, channels)
        found = planes.permute(0, 3, 1, 2)
    else:
        planes = found = weight.new_empty(rows, channels, *extents)
    numbers = *windows, *taps, channels, *stride, *first, *extents
    held = indices(elements), weight.contiguous()  # as long as their addresses are read
    at = (part.data_ptr() for part in (*held, planes))
    return found if native.unit_rows(*head(planes), rows, out, last, *numbers, *at) else None

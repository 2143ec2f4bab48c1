"""The adjoint of a convolution on rows that are zero in many places."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native

CHIP = 0 if native is None else native.FUSES
"""How long the vectors are with which products are fused with sums, from 1; 0 where the processor has none."""
FEW = 4
"""For up to so many channels rows stand side by side in vectors, else channels do."""
TALL, TALL_FEW = 12, 16
"""So many rows are looked at together; for few channels so many."""
SHORT = 2 * TALL // 3
"""For fewer rows than this other ways are faster: what is done for some rows takes as long as for all of them."""
LONG_ROW = 2**18
"""Rows with more elements than this do not stay in any cache while they are looked at."""
LARGE = 2**20
"""Nor do more weights than this."""


def adjoint(
    rows: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    first: Sequence[int],
    extents: Sequence[int],
    order: Tensor | None = None,
) -> Tensor | None:
    """Rows `[rows, height, width, out]` through the adjoint of a convolution with `weight` `[out, in, taps, taps]`,
    whose first window begins `first` elements before the operand: `[rows, *extents, in]`.

    Coefficients that are zero in all of some rows are left out. `order` `[rows]`, a permutation, says which rows are
    looked at together; without it neighbours are. Rows stand in memory one after the other. None where another way is
    faster, where there is no compiled code for these, and where a weight is infinite or not a number.
    """
    if not CHIP or native is None or len(rows) < SHORT or addresses(rows, weight) is None or not rows.is_contiguous():
        return None
    count, *windows, out = rows.shape
    channels, *taps = weight.shape[1:]
    across, reach = _across(channels, rows.element_size()), windows[-1] * stride[-1]
    if rows[0].numel() > LONG_ROW or weight.numel() > LARGE or not rows.numel() * channels:
        return None
    if reach * out * across >= 2**31:  # how far compiled code can count
        return None
    found, order, weight = rows.new_empty(count, *extents, channels), indices(order), weight.contiguous()
    numbers = *windows, *taps, channels, *stride, *first, *extents, out, across
    done = native.adjoint(
        *head(found), count, *numbers, TALL_FEW if channels <= FEW else TALL, 0 if order is None else order.data_ptr(),
        CHIP, rows.data_ptr(), weight.data_ptr(), found.data_ptr(),
    )  # fmt: skip
    return found if done else None


def _across(channels: int, size: int) -> int:
    """How many channels the weights of a tap have, so that vectors take them: elements of this size in bytes."""
    wide = 128 // size
    rest = channels % wide
    if channels <= FEW or not rest:
        return channels
    return channels - rest + next(k for k in (wide // 4, wide // 2, wide) if rest <= k)

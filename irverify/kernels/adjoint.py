"""The adjoint of a convolution on rows that are zero in many places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native, within

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


class Looked(NamedTuple):
    """How rows are looked at: which neighbours together, or at which elements of their examples."""

    order: Tensor | None = None
    place: Tensor | None = None
    owner: Tensor | None = None

    def told(self) -> tuple[int, ...]:
        """As compiled code takes it."""
        given = (0 if index is None else index.data_ptr() for index in self)
        return 0 if self.place is None else self.place.shape[1], *given


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
    if addresses(rows, weight) is None or not rows.is_contiguous():
        return None
    return _adjoint(rows, rows.shape[1:], weight, (*stride, *first, *extents), Looked(order=indices(order)))


class Met(NamedTuple):
    """Lines around values `[examples, height, width, out]`: the slope below, what the one above has more, and the
    constants; None for zero."""

    slope: Tensor
    rise: Tensor | None
    base: Tensor | None
    top: Tensor | None


def adjoint_of_bent(
    rows: Tensor,
    met: Met | None,
    owner: Tensor | None,
    weight: Tensor,
    offset: Tensor | None,
    stride: Sequence[int],
    first: Sequence[int],
    extents: Sequence[int],
) -> tuple[Tensor, Tensor] | None:
    """The same for rows that meet lines first, a positive coefficient those below and others those above, with their
    constants `[rows]`, to which the convolution adds an `offset` `[out]`. Rows are of the examples `owner` `[rows]`, in
    ascending order, or all of the first."""
    parts = (None,) * 4 if met is None else met
    if addresses(rows, weight, offset, *parts) is None or not rows.is_contiguous():
        return None
    if offset is not None and (offset.shape != rows.shape[3:] or not offset.is_contiguous()):
        return None
    if not all(part is None or (part.is_contiguous() and part.shape[1:] == rows.shape[1:]) for part in parts):
        return None
    numbers = told(rows, rows.shape[1:], weight, (*stride, *first, *extents))
    if numbers is None or native is None:
        return None
    if met is None:
        owner = None
    elif any(part is not None and len(part) != len(met.slope) for part in met):
        return None
    elif owner is not None:
        owner = indices(owner)
        if owner.shape != rows.shape[:1] or not within(owner, len(met.slope)):
            return None
    found, constants = rows.new_empty(len(rows), *extents, weight.shape[1]), rows.new_empty(len(rows))
    weight = weight.contiguous()
    at = CHIP, rows.data_ptr(), weight.data_ptr(), found.data_ptr()
    adds = [0 if part is None else part.data_ptr() for part in (*parts, offset, constants)]
    looked = Looked(owner=owner).told()
    done = native.adjoint_of_bent(*head(found), len(rows), *numbers, *looked, *at, *adds)
    return (found, constants) if done else None


def adjoint_of_elements(
    rows: Tensor,
    place: Tensor,
    owner: Tensor | None,
    windows: Sequence[int],
    weight: Tensor,
    stride: Sequence[int],
    first: Sequence[int],
    extents: Sequence[int],
) -> Tensor | None:
    """The same for coefficients `[rows, elements]` of the elements at `place` `[examples, elements]` of flat channels
    `[out, height, width]`, zero everywhere else; `owner` `[rows]` says of which example each row is, else all are of
    the first. An element that stands there twice counts twice."""
    if addresses(rows, weight) is None or not rows.is_contiguous() or place.shape[1:] != rows.shape[1:]:
        return None
    place, owner = indices(place), indices(owner)
    size = math.prod(windows) * weight.shape[0]
    if not place.numel() or not within(place, size) or (owner is not None and not within(owner, len(place))):
        return None
    shape, looked = (*windows, weight.shape[0]), Looked(place=place, owner=owner)
    return _adjoint(rows, shape, weight, (*stride, *first, *extents), looked)


def _adjoint(
    rows: Tensor, shape: Sequence[int], weight: Tensor, moves: Sequence[int], looked: Looked
) -> Tensor | None:
    """Rows over windows of a shape `[height, width, out]`, by compiled code that nobody else has to check. `moves`: the
    strides, where the first window begins, and the extents."""
    numbers = told(rows, shape, weight, moves)
    if numbers is None or native is None:
        return None
    found, weight = rows.new_empty(len(rows), *moves[4:], weight.shape[1]), weight.contiguous()
    at = CHIP, rows.data_ptr(), weight.data_ptr(), found.data_ptr()
    return found if native.adjoint(*head(found), len(rows), *numbers, *looked.told(), *at) else None


def told(rows: Tensor, shape: Sequence[int], weight: Tensor, moves: Sequence[int]) -> tuple[int, ...] | None:
    """The extents as compiled code takes them; None for what it was not written for, and for so few rows that other
    ways are faster."""
    if not CHIP or len(rows) < SHORT:
        return None
    *windows, out = shape
    channels, *taps = weight.shape[1:]
    across, reach = _across(channels, rows.element_size()), windows[-1] * moves[1]
    if math.prod(shape) > LONG_ROW or weight.numel() > LARGE or not rows.numel() * channels:
        return None
    if reach * out * across >= 2**31:  # how far compiled code can count
        return None
    return *windows, *taps, channels, *moves, out, across, TALL_FEW if channels <= FEW else TALL


def _across(channels: int, size: int) -> int:
    """How many channels the weights of a tap have, so that vectors take them: elements of this size in bytes."""
    wide = 128 // size
    rest = channels % wide
    if channels <= FEW or not rest:
        return channels
    return channels - rest + next(k for k in (wide // 4, wide // 2, wide) if rest <= k)

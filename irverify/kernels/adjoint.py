"""The adjoint of a convolution on rows that are zero in many places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
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


class BentAdjoint:
    """The same for rows over values of a convolution that meet lines first, a positive coefficient those below and
    others those above, with their constants, to which the convolution adds an `offset` `[out]`. What is asked of lines
    and weights is asked here, once for all rows."""

    def __init__(self, parts: Sequence[Tensor | None], weight: Tensor, examples: int, numbers: tuple[int, ...]) -> None:
        self._held = [None if part is None else part.untyped_storage() for part in parts]  # compiled code reads them
        self._weight = weight
        self._examples = examples
        self._numbers = numbers
        self._given = [0 if part is None else part.data_ptr() for part in parts]
        height, width, *_ = numbers
        self._row = weight.shape[0], height, width
        self._found = weight.shape[1], *numbers[9:11]

    @classmethod
    def of(
        cls,
        met: Met | None,
        weight: Tensor,
        offset: Tensor | None,
        stride: Sequence[int],
        first: Sequence[int],
        extents: Sequence[int],
        windows: Sequence[int],
    ) -> BentAdjoint | None:
        """For values `[*windows, out]`; None where there is no compiled code for these, or other ways are faster."""
        lines = (None,) * 4 if met is None else met
        shape = *windows, weight.shape[0]
        if addresses(weight, offset, *lines) is None:
            return None
        if offset is not None and (offset.shape != shape[2:] or not offset.is_contiguous()):
            return None
        examples = 0 if met is None else len(met.slope)
        for part in lines:
            if part is not None and (part.shape != (examples, *shape) or not part.is_contiguous()):
                return None
        numbers = told(shape, weight, (*stride, *first, *extents))
        return None if numbers is None else cls((*lines, offset), weight.contiguous(), examples, numbers)

    def __call__(
        self,
        rows: Tensor,
        owner: Tensor | None,
        gains: Tensor | None = None,
        least: Tensor | None = None,
        *,
        spent: bool = False,
        twice: bool = False,
    ) -> tuple[Tensor, Tensor] | None:
        """Rows `[rows, out, *windows]`, the channels last in memory, of the examples `owner` `[rows]`, in ascending
        order, or all of the first: rows `[rows, in, *extents]`, stored like them, and constants `[rows]`. None where
        they are so few that other ways are faster, or stand in another order. With
        `gains`, like the rows, and `least` `[rows]` slopes below are turned over as in `flips.turned`. Rows that are
        `spent` are written over where what comes of them has their size: some are read whole before they are. With
        `twice` the negatives of all rows, of examples `[2 rows]`, meet the lines behind them."""
        found = addresses(rows, self._weight, gains, least)
        if found is None or native is None or rows.shape[1:] != self._row or not _stands(rows):
            return None
        count, place = rows.shape[0] * (2 if twice else 1), 0
        if gains is not None and (twice or not self._turns(rows, gains, least)):
            return None
        if twice and not self._examples:
            return None
        if count < SHORT:
            return None
        if owner is not None and self._examples:
            owner = indices(owner)
            if owner.shape != (count,) or not within(owner, self._examples):
                return None
            place = owner.data_ptr()
        over = spent and not twice and self._found == self._row
        passed, constants = rows if over else _room(count, self._found, rows.dtype), rows.new_empty(count)
        last = *found[2:], constants.data_ptr(), len(rows)
        at = 0, 0, 0, place, CHIP, *found[:2], passed.data_ptr(), *self._given, *last
        done = native.adjoint_of_bent(*head(passed), count, *self._numbers, *at)
        return (passed, constants) if done else None

    def _turns(self, rows: Tensor, gains: Tensor, least: Tensor | None) -> bool:
        """Whether there are lines whose slopes below may be turned over, and gains and what they have to be."""
        slope, rise, base, top, _ = self._held
        if slope is None or rise is None or base is not None or top is None or least is None:
            return False
        shaped = gains.shape == rows.shape and least.shape == rows.shape[:1]
        return shaped and _stands(gains) and least.is_contiguous()


def _stands(rows: Tensor) -> bool:
    return rows.is_contiguous(memory_format=torch.channels_last)


def _room(count: int, row: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Rows that are to be written; one that is permuted would take more memory, and longer."""
    return torch.empty((count, *row), dtype=dtype, memory_format=torch.channels_last)


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
    numbers = None if len(rows) < SHORT else told(shape, weight, moves)
    if numbers is None or native is None:
        return None
    found, weight = rows.new_empty(len(rows), *moves[4:], weight.shape[1]), weight.contiguous()
    at = CHIP, rows.data_ptr(), weight.data_ptr(), found.data_ptr()
    return found if native.adjoint(*head(found), len(rows), *numbers, *looked.told(), *at) else None


def told(shape: Sequence[int], weight: Tensor, moves: Sequence[int]) -> tuple[int, ...] | None:
    """The extents as compiled code takes them; None for what it was not written for."""
    return _told(tuple(shape), tuple(weight.shape), weight.element_size(), tuple(moves)) if CHIP else None


@lru_cache(maxsize=1024)
def _told(
    shape: tuple[int, ...], weight: tuple[int, ...], size: int, moves: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The same for a weight of this shape, whose elements have this size in bytes."""
    *windows, out = shape
    _, channels, *taps = weight
    across, reach = _across(channels, size), windows[-1] * moves[1]
    if math.prod(shape) > LONG_ROW or math.prod(weight) > LARGE or not math.prod(shape) * channels:
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

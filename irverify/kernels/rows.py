"""Rows of coefficients over values, through lines around these values, to their minimum over a box, and over planes.

Rows `[rows, size]` stand one after the other in memory. What they meet has an entry for each element of a value, for
one example or several, one after the other: `[examples, elements]`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from irverify.kernels.native import addresses, alike, head, indices, native


class Frame(NamedTuple):
    """Where windows of these extents lie in a plane: that of the row which starts from a place begins at
    `scale * place + shift`, where the last axis that places are counted along has `starts` of them."""

    extents: tuple[int, ...]
    plane: tuple[int, ...]
    starts: int
    scale: tuple[int, ...]
    shift: tuple[int, ...]


class Spots(NamedTuple):
    """Where the coefficients of rows lie in a value, and of which example each row is: `owner` `[rows]`, or `each` rows
    of every example in turn, or all of the first."""

    numbers: tuple[int, ...]
    place: Tensor | None = None
    owner: Tensor | None = None

    @staticmethod
    def whole(rows: int, size: int, each: int = 0, owner: Tensor | None = None) -> Spots:
        """Rows that have a coefficient for every element."""
        return Spots((rows, each, 1, size, 1, 1, 1, 1, 1, 1, 1, 0, 0), None, indices(owner))

    @staticmethod
    def windows(channels: int, frame: Frame, place: Tensor, owner: Tensor | None, *, last: bool) -> Spots:
        """Windows over two axes for rows that start from `place` `[rows]`, the channels `last` in both or before their
        axes."""
        outer, unit = (1, channels) if last else (channels, 1)
        lies = (*frame.extents, *frame.plane, frame.starts, *frame.scale, *frame.shift)
        return Spots((place.shape[0], 0, outer, unit, *lies), indices(place), indices(owner))

    @property
    def planes(self) -> int:
        """How many elements the value has."""
        return self.numbers[2] * self.numbers[3] * self.numbers[6] * self.numbers[7]

    def fit(self, rows: Tensor, *met: Tensor | None) -> bool:
        """Whether rows have as many elements as this says, and what they meet as many as the examples have."""
        count, each, outer, unit, height, width = self.numbers[:6]
        if rows.numel() != count * outer * unit * height * width:
            return False
        planes, size = self.planes, -1
        for part in met:
            if part is not None and (found := part.numel()) != size:
                if size >= 0:
                    return False
                size = found
        if size < 0 or count == 0:
            return True
        if self.owner is not None:
            return self.owner.shape[0] == count and size % max(1, planes) == 0
        return size == (count // each if each else 1) * planes

    def told(self) -> tuple[int, ...]:
        """As compiled code takes it."""
        pointers = (0 if index is None else index.data_ptr() for index in (self.place, self.owner))
        return (*self.numbers, *pointers)


def bend(
    rows: Tensor,
    spots: Spots,
    slope: Tensor,
    rise: Tensor | None,
    base: Tensor | None,
    top: Tensor | None,
    *,
    spent: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """`a slope + min(a, 0) rise`, stored as the rows `a` are, in their place if these are `spent`, and
    `max(a, 0) . base + min(a, 0) . top`, `[rows]`."""
    found = addresses(rows, slope, rise, base, top)
    if found is None or native is None or not spots.fit(rows, slope, rise, base, top):
        return None
    passed, constants = rows if spent else torch.empty_like(rows), rows.new_empty(spots.numbers[0])
    native.bend(*head(rows), *spots.told(), *found, passed.data_ptr(), constants.data_ptr())
    return passed, constants


def bend_back(
    rows: Tensor, slope: Tensor, rise: Tensor, base: Tensor | None, top: Tensor,
    inner: Tensor, outer: Tensor, *, through: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None, Tensor] | None:  # fmt: skip
    """For rows `[examples, count, size]` and what each example has `[examples, size]`: the rows passed on (with
    `through`), and the gradients in rows, rise, base and top from those in them, `inner`, and in the constants, `outer`
    `[examples, count]`. The gradient in the rows takes the memory of `inner`."""
    found = addresses(rows, slope, rise, base, top, inner, outer)
    if found is None or native is None or not _alike(rows, (slope, rise, base, top), inner, outer):
        return None
    passed = torch.empty_like(rows) if through else None
    of_rise, of_top = torch.empty_like(rise), torch.empty_like(top)
    of_base = None if base is None else torch.empty_like(base)
    results = [0 if tensor is None else tensor.data_ptr() for tensor in (passed, inner, of_rise, of_base, of_top)]
    native.bend_back(*head(rows), *rows.shape, *found, *results)
    return passed, inner, of_rise, of_base, of_top


def minimum(rows: Tensor, spots: Spots, center: Tensor, radius: Tensor) -> Tensor | None:
    """`a . center - |a| . radius` for each row, `[rows]`."""
    found = addresses(rows, center, radius)
    if found is None or native is None or not spots.fit(rows, center, radius):
        return None
    least = rows.new_empty(spots.numbers[0])
    native.minimum(*head(rows), *spots.told(), *found, least.data_ptr())
    return least


def minimum_back(
    rows: Tensor, center: Tensor, radius: Tensor, outer: Tensor, *, of_center: bool, of_radius: bool
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """The gradients of the minimum of rows `[examples, count, size]` in these, in centre and in radius, from `outer`
    `[examples, count]`."""
    found = addresses(rows, center, radius, outer)
    if found is None or native is None or not _alike(rows, (center, radius), rows, outer):
        return None
    of_rows = torch.empty_like(rows)
    middle = torch.empty_like(center) if of_center else None
    reach = torch.empty_like(radius) if of_radius else None
    results = [0 if tensor is None else tensor.data_ptr() for tensor in (of_rows, middle, reach)]
    native.minimum_back(*head(rows), *rows.shape, *found, *results)
    return of_rows, middle, reach


def spread(rows: Tensor, spots: Spots) -> Tensor | None:
    """The rows over whole planes `[rows, elements]`, zero where no window reaches."""
    found = addresses(rows)
    if found is None or native is None or not spots.fit(rows):
        return None
    planes = rows.new_empty(spots.numbers[0], spots.planes)
    native.spread(*head(planes), *spots.told(), 0, *found, planes.data_ptr())
    return planes


def add(rows: Tensor, spots: Spots, planes: Tensor, sign: Literal[1, -1]) -> bool:
    """Adds what `spread` makes of the rows, times a sign, to `planes`, as many elements in the same order, in their
    memory; whether it was done."""
    found = None if alike(planes) is None else addresses(rows, planes)
    count = spots.numbers[0]
    if found is None or native is None or not spots.fit(rows) or planes.numel() != count * spots.planes:
        return False
    native.spread(*head(planes), *spots.told(), sign, *found)
    return True


def dot(rows: Tensor, numbers: Tensor) -> Tensor | None:
    """Each row `[rows, ...]` times numbers that repeat until its end."""
    size, period = math.prod(rows.shape[1:]), numbers.numel()
    found = addresses(rows, numbers)
    if found is None or native is None or period == 0 or size % period:
        return None
    if not (rows.is_contiguous() and numbers.is_contiguous()):
        return None
    products = rows.new_empty(rows.shape[0])
    native.dot(*head(rows), rows.shape[0], size, period, *found, products.data_ptr())
    return products


def _alike(rows: Tensor, met: tuple[Tensor | None, ...], inner: Tensor, outer: Tensor) -> bool:
    """Whether the sizes are those of rows `[examples, count, size]`."""
    examples, count, size = rows.shape
    sized = all(part is None or part.numel() == examples * size for part in met)
    return sized and inner.numel() == rows.numel() and outer.numel() == examples * count

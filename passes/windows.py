"""Rows over a value with spatial axes that are zero outside a window: what receptive fields make of them.

A row that starts at one element of a convolution reaches only its receptive field. All windows of a value have one
extent; the window of a row begins, along each axis, at `scale * place + shift`, where `place` is the position that the
row started from. Windows may reach beyond the plane of the value; the coefficients there count for nothing.

Rows of several examples have an `owner` each, and what they meet at their windows is given for all examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from irverify.ir.ops import Conv
from irverify.ir.ops.memory import prefers_last, settled, stands_last, taken
from irverify.ir.ops.padding import Pairs, pad_spatial
from irverify.ir.ops.scatter import Steps, folded, scatter, through
from irverify.ir.params import value
from irverify.ir.recording import recorded
from irverify.kernels import rows as compiled
from irverify.kernels.native import addresses

SHARE = 0.6
"""Windows that cover more than this share of a plane are not worth their while,"""
SMALL = 16
"""nor are any in a plane of so few places."""
SPARSE = 0.4
"""Where rows are fewer than this share of the positions, windows are cut out for each row."""
DENSE, DENSE_UNIT = 8.0, 4.0
"""So many times as many products, zeros included, still pay for one matrix product; less where windows move by one."""
LARGE = 2**20
"""Up to how many elements such a matrix may have."""


@dataclass(frozen=True)
class Grid:
    """Where the windows of a value lie: rows start from positions of a plane `starts`; the window of the row that
    starts from p begins at `scale * p + shift` in a plane of extents `plane`."""

    starts: tuple[int, ...]
    scale: tuple[int, ...]
    shift: tuple[int, ...]
    plane: tuple[int, ...]

    def inside(self, window: tuple[int, ...]) -> bool:
        """No window of these extents reaches beyond the plane."""
        axes = zip(self.starts, self.scale, self.shift, self.plane, window, strict=True)
        return all(shift >= 0 and scale * (starts - 1) + shift + k <= n for starts, scale, shift, n, k in axes)

    def before(self, op: Conv, plane: tuple[int, ...]) -> Grid:
        """Where the receptive fields lie in the operand of a convolution."""
        scale = tuple(stride * own for stride, own in zip(op.stride, self.scale, strict=True))
        shift = tuple(
            stride * own - before for stride, own, (before, _) in zip(op.stride, self.shift, op.padding, strict=True)
        )
        return Grid(self.starts, scale, shift, plane)

    def cut(
        self,
        tensors: Sequence[Tensor],
        window: tuple[int, ...],
        place: Tensor,
        owner: Tensor | None = None,
    ) -> list[Tensor]:
        """The windows of each of `tensors` `[maps, *plane]` for rows that start from `place` `[rows]` (flat positions),
        zero beyond the plane: `[rows, maps, *window]`. With `owner` `[rows]` they are `[examples, maps, *plane]`."""
        axes, size = len(window), math.prod(self.starts)
        padding: list[int] = []
        first = []
        for starts, scale, shift, n, k in zip(self.starts, self.scale, self.shift, self.plane, window, strict=True):
            padding = [max(0, -shift), max(0, scale * (starts - 1) + shift + k - n), *padding]
            first.append(max(0, shift))
        planes = [tensor if owner is not None else tensor[None] for tensor in tensors]
        # The windows of one tensor stand together, in the order in memory that coefficients are in.
        last = prefers_last(planes[0])
        maps = axes + 2 if last else 2
        if last:
            planes = [plane.permute(0, 2, 3, 1) for plane in planes]
            padding = [0, 0, *padding]
        if any(padding):
            planes = [functional.pad(plane, padding) for plane in planes]
        view = torch.stack(planes, 1)
        for axis, (start, scale, k, n) in enumerate(
            zip(first, self.scale, window, self.starts, strict=True), 2 if last else 3
        ):
            view = view.narrow(axis, start, view.shape[axis] - start).unfold(axis, k, scale).narrow(axis, 0, n)
        inner = tuple(range(axes + 3, 2 * axes + 3))
        places = tuple(axis for axis in range(2, axes + 3) if axis != maps)
        view = view.permute(0, *places, 1, *((*inner, maps) if last else (maps, *inner)))
        if place.shape[0] < SPARSE * view.shape[0] * size:
            chosen = view[(0 if owner is None else owner, *torch.unravel_index(place, self.starts))]
        else:
            table = view.reshape(view.shape[0] * size, -1)
            chosen = table.index_select(0, place if owner is None else owner * size + place)
            chosen = chosen.reshape(-1, *view.shape[axes + 1 :])
        return [part.permute(0, 3, 1, 2) if last else part for part in chosen.unbind(1)]


def receptive(op: Conv, window: tuple[int, ...]) -> tuple[int, ...]:
    """The extents in the operand that windows of these extents over the result of a convolution reach."""
    return Steps(op.stride, op.dilation, op.groups).covered(window, value(op.weight).shape[2:])


def worthwhile(window: tuple[int, ...], plane: tuple[int, ...]) -> bool:
    """Windows of these extents leave enough of a plane out."""
    places = math.prod(plane)
    return places > SMALL and math.prod(map(min, window, plane)) <= SHARE * places


@dataclass(frozen=True)
class Windows:
    """Coefficients `[rows, channels, *window]` of rows that start from `place` `[rows]`; `clean` where those beyond the
    plane are zero. `owner` `[rows]`: the example of each, None where there is one. `twice`: the second half of the rows
    starts from where the first half does, in the same examples, and so meets the same."""

    coefficients: Tensor
    place: Tensor
    grid: Grid
    clean: bool
    owner: Tensor | None = None
    twice: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        return tuple(self.coefficients.shape[2:])

    def cut(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors `[maps, *plane]`, or of all examples, at the window of each row, zero beyond the plane:
        `[rows, maps, *window]`."""
        return self.grid.cut(tensors, self.window, self.place, self.owner)

    def with_coefficients(self, coefficients: Tensor, *, clean: bool) -> Windows:
        return replace(self, coefficients=coefficients, clean=clean)

    def half(self) -> Windows:
        """The first half of the rows."""
        count = self.place.shape[0] // 2
        owner = None if self.owner is None else self.owner[:count]
        return replace(
            self, coefficients=self.coefficients[:count], place=self.place[:count], owner=owner, twice=False
        )

    def select(self, rows: Tensor) -> Windows:
        owner = None if self.owner is None else self.owner[rows]
        coefficients, twice = taken(self.coefficients, rows), self.twice and self._both_of_each(rows)
        return replace(self, coefficients=coefficients, place=self.place[rows], owner=owner, twice=twice)

    def _both_of_each(self, rows: Tensor) -> bool:
        """Whether rows are some of the first half, and then those of the second half that stand at the same places."""
        if rows.shape[0] % 2:
            return False
        first, second = rows.chunk(2)
        return bool(((second - first) * 2 == self.place.shape[0]).all())

    def both_signs(self) -> Windows:
        """The rows, and then their negatives."""
        coefficients = torch.cat([self.coefficients, -self.coefficients])
        owner = None if self.owner is None else self.owner.repeat(2)
        return replace(self, coefficients=coefficients, place=self.place.repeat(2), owner=owner, twice=True)

    def cleaned(self) -> Windows:
        """With zeros beyond the plane."""
        if self.clean:
            return self
        (inside,) = self.grid.cut([self.coefficients.new_ones((1, *self.grid.plane))], self.window, self.place)
        return self.with_coefficients(self.coefficients * inside, clean=True)

    def spots(self, *, last: bool) -> compiled.Spots | None:
        """The same as compiled code takes it, for planes of one axis, the second of two there, or of two; else None."""
        grid, window = self.grid, self.window
        if len(window) > 2:
            return None
        before = (1,) * (2 - len(window))
        frame = compiled.Frame(
            extents=(*before, *window), plane=(*before, *grid.plane), starts=grid.starts[-1],
            scale=(*before, *grid.scale), shift=((0,) * len(before)) + grid.shift,
        )  # fmt: skip
        return compiled.Spots.windows(self.coefficients.shape[1], frame, self.place, self.owner, last=last)

    def add_to(self, rows: Tensor, sign: Literal[1, -1]) -> bool:
        """Adds these rows, times a sign, to others over the whole value, in the memory of those, where there is
        compiled code for it; whether there is. Nobody asks for derivatives."""
        coefficients, order = self.coefficients, self._order()
        if order is None or rows.shape != (*coefficients.shape[:2], *self.grid.plane):
            return False
        in_order = stands_last(rows) if order else rows.is_contiguous()
        spots = self.spots(last=order) if in_order else None
        return spots is not None and compiled.add(coefficients, spots, rows, sign)

    def _order(self) -> bool | None:
        """Whether the channels stand last in memory; None where compiled code cannot read the coefficients."""
        if addresses(self.coefficients) is None:
            return None
        last = stands_last(self.coefficients)
        return last if last or self.coefficients.is_contiguous() else None

    def _spread(self) -> Tensor | None:
        """`dense` by compiled code."""
        last = self._order()
        spots = None if last is None else self.spots(last=last)
        flat = None if spots is None else compiled.spread(self.coefficients, spots)
        if flat is None:
            return None
        channels, plane = self.coefficients.shape[1], self.grid.plane
        return flat.reshape(-1, *plane, channels).movedim(-1, 1) if last else flat.reshape(-1, channels, *plane)

    def dense(self) -> Tensor:
        """The same rows over the whole value, `[rows, channels, *plane]`."""
        rows, channels = self.coefficients.shape[:2]
        differentiable = recorded(self.coefficients)
        if not differentiable and (found := self._spread()) is not None:
            return found
        if differentiable or not prefers_last(self.coefficients):
            index = torch.arange(math.prod(self.grid.plane), device=self.place.device).reshape(1, *self.grid.plane)
            (places,) = self.grid.cut([index], self.window, self.place)
            places = places.flatten(2).expand(rows, channels, -1)
            # What lies beyond the plane is zero, wherever it is added.
            zeros = self.coefficients.new_zeros(rows, channels, index.numel())
            flat = zeros.scatter_add(2, places, self.cleaned().coefficients.flatten(2))
            return settled(flat.reshape(-1, channels, *self.grid.plane))
        table = self.coefficients.permute(0, 2, 3, 1).reshape(-1, channels)
        table = functional.pad(table, (0, 0, 0, 1))  # where no window reaches
        whole = table.index_select(0, self._sources().reshape(-1))
        return whole.reshape(rows, *self.grid.plane, channels).permute(0, 3, 1, 2)

    def _sources(self) -> Tensor:
        """For each row and place of the plane `[rows, places]`: the element of its window that stands there, counted
        over the windows of all rows, and one after the last where none does."""
        grid, rows, axes = self.grid, self.place.shape[0], len(self.window)
        none = rows * math.prod(self.window)
        found = torch.arange(0, none, math.prod(self.window), device=self.place.device).reshape(rows, *(1,) * axes)
        left, step = self.place, 1
        for axis in reversed(range(axes)):
            begin = left % grid.starts[axis] * grid.scale[axis] + grid.shift[axis]
            left = left // grid.starts[axis]
            offset = torch.arange(grid.plane[axis], device=begin.device) - begin[:, None]
            outside = (offset < 0) | (offset >= self.window[axis])
            place = (offset * step).masked_fill_(outside, none)
            found = found + place.reshape(rows, *(1,) * axis, grid.plane[axis], *(1,) * (axes - 1 - axis))
            step *= self.window[axis]
        return found.clamp_(max=none).reshape(rows, math.prod(grid.plane))

    def before(self, op: Conv, plane: tuple[int, ...]) -> Windows | None:
        """The rows over the operand of a convolution; None where they cover so much of it that windows do not pay."""
        extents = receptive(op, self.window)
        if not worthwhile(extents, plane):
            return None
        rows, weight = self.cleaned().coefficients, value(op.weight)
        steps, first = Steps(op.stride, op.dilation, op.groups), (0,) * len(plane)
        at_once = through(rows, weight, steps, first, extents, self._together())
        if at_once is None:
            at_once = folded(rows, weight, steps, first, extents)
        if at_once is not None:
            passed = at_once
        elif _as_matrix(rows, weight, op, extents):
            last = prefers_last(rows)
            matrix = _matrix(weight, op, self.window, extents, last=last)
            if last:
                passed = rows.permute(0, 2, 3, 1).flatten(1) @ matrix
                passed = passed.reshape(-1, *extents, weight.shape[1]).permute(0, 3, 1, 2)
            else:
                passed = (rows.flatten(1) @ matrix).reshape(-1, weight.shape[1], *extents)
        else:
            passed = scatter(rows, weight, steps, first, extents)
        grid = self.grid.before(op, plane)
        return replace(self, coefficients=passed, grid=grid, clean=grid.inside(extents))

    def _together(self) -> Tensor:
        """The rows in an order in which those that start from one place of one example, and so are zero in many places
        together, follow each other."""
        place = self.place if self.owner is None else self.place + self.owner * math.prod(self.grid.starts)
        return place.argsort()

    def plus(self, other: Windows) -> Windows | None:
        """The sum of the same rows, reached on two ways; None where they count their places in different planes (a
        reshape may lie on one way), start from different places there (a gather), or windows move at different
        steps."""
        if (self.grid.starts, self.grid.scale) != (other.grid.starts, other.grid.scale):
            return None
        if not torch.equal(self.place, other.place):
            return None
        first = [
            (own, own + k, theirs, theirs + n)
            for own, k, theirs, n in zip(self.grid.shift, self.window, other.grid.shift, other.window, strict=True)
        ]
        spans = [(min(a, c), max(b, d)) for a, b, c, d in first]
        own = tuple((a - low, high - b) for (a, b, _, _), (low, high) in zip(first, spans, strict=True))
        theirs = tuple((c - low, high - d) for (_, _, c, d), (low, high) in zip(first, spans, strict=True))
        total = _padded(self.coefficients, own) + _padded(other.coefficients, theirs)
        grid = replace(self.grid, shift=tuple(low for low, _ in spans))
        return replace(self, coefficients=total, grid=grid, clean=self.clean and other.clean)


def _padded(rows: Tensor, pairs: Pairs) -> Tensor:
    """The rows padded along their windows, stored as they are."""
    if not stands_last(rows):
        return pad_spatial(rows, pairs)
    return pad_spatial(rows.permute(0, 2, 3, 1), (*pairs, (0, 0))).permute(0, 3, 1, 2)


def _as_matrix(rows: Tensor, weight: Tensor, op: Conv, extents: tuple[int, ...]) -> bool:
    """Whether windows go through the adjoint of a convolution as one product with a matrix, the same for all of them:
    zeros count then, but a product runs many times faster than sums at the places that each tap reaches."""
    if op.groups > 1 or rows.device.type != "cpu" or recorded(weight):
        return False
    entries = math.prod(rows.shape[1:]) * weight.shape[1] * math.prod(extents)
    zeros = math.prod(extents) / weight[0, 0].numel()
    return entries <= LARGE and zeros <= (DENSE if max(op.stride) > 1 else DENSE_UNIT)


def _matrix(weight: Tensor, op: Conv, window: tuple[int, ...], extents: tuple[int, ...], *, last: bool) -> Tensor:
    """The matrix `[out * window, in * extents]` of a convolution between windows of these extents; with `last` the
    channels come last, `[window * out, extents * in]`."""
    axes = len(window)
    kernel = weight.shape[2:]
    if last:
        found = weight.new_zeros(*window, weight.shape[0], *extents, weight.shape[1])
        named = found.permute(axes, *range(axes), 2 * axes + 1, *range(axes + 1, 2 * axes + 1))
    else:
        found = named = weight.new_zeros(weight.shape[0], *window, weight.shape[1], *extents)
    strides = named.stride()
    out, places, into, spots = strides[0], strides[1 : axes + 1], strides[axes + 1], strides[axes + 2 :]
    along = tuple(place + step * spot for place, step, spot in zip(places, op.stride, spots, strict=True))
    taps = tuple(dilation * spot for dilation, spot in zip(op.dilation, spots, strict=True))
    band = found.as_strided((weight.shape[0], *window, weight.shape[1], *kernel), (out, *along, into, *taps))
    band.copy_(weight.reshape(weight.shape[0], *(1,) * axes, *weight.shape[1:]).expand(band.shape))
    return found.reshape(math.prod(window) * weight.shape[0], -1)


def kernels(
    op: Conv,
    channel: Tensor,
    place: Tensor,
    starts: tuple[int, ...],
    plane: tuple[int, ...],
    owner: Tensor | None = None,
) -> Windows:
    """The rows of a convolution for elements at `channel` and `place` (both `[rows]`) of its result of extents
    `starts`, over its operand of extents `plane`: the kernels themselves."""
    weight = value(op.weight)
    rows = taken(settled(weight), channel)
    if any(dilation > 1 for dilation in op.dilation):
        spread = rows.new_zeros((*rows.shape[:2], *receptive(op, (1,) * len(plane))))
        places: list[slice] = [slice(None, None, dilation) for dilation in op.dilation]
        spread[(slice(None), slice(None), *places)] = rows
        rows = spread
    if op.groups > 1:
        own = functional.one_hot(channel // (weight.shape[0] // op.groups), op.groups).to(rows.dtype)
        rows = own.reshape(-1, op.groups, *(1,) * (rows.ndim - 1)) * rows.unsqueeze(1)
        rows = rows.flatten(1, 2)
    axes = len(plane)
    grid = Grid(starts, (1,) * axes, (0,) * axes, starts).before(op, plane)
    return Windows(settled(rows), place, grid, grid.inside(tuple(rows.shape[2:])), owner)

"""The forms that rows over a value take on their way backwards, from the sparsest to all coefficients; all belong to
one example, or each to the example that its `owner` says.

Whatever is said of an example's own tensors, such as the slopes of a relaxation, is brought `at` the coefficients that
a form has; where rows have owners, these tensors are those of all examples, `[examples, *shape]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from irverify.ir.ops.memory import in_order, prefers_last, stands_last, taken
from irverify.ir.recording import recorded
from irverify.kernels import available
from irverify.kernels import rows as compiled
from irverify.kernels.narrow import fetch
from irverify.passes.windows import Grid, Windows
from irverify.regions.base import rowwise

MANY = 2**15
"""So many coefficients of one example are worth a call of their own."""


@dataclass(frozen=True)
class Units:
    """The rows `v_j` for `elements` j `[rows]` of a flat value of a shape; `like` gives type and device."""

    elements: Tensor
    shape: tuple[int, ...]
    like: Tensor
    owner: Tensor | None = None

    def select(self, rows: Tensor) -> Units:
        return replace(self, elements=self.elements[rows], owner=_selected(self.owner, rows))

    def both_signs(self) -> Wide:
        """The rows, and then their negatives."""
        return spread(self).both_signs()

    def times(self, signs: Tensor) -> Form:
        """The rows, each times its own sign `[rows]`."""
        return spread(self).times(signs)

    def dense(self) -> Tensor:
        flat = self.like.new_zeros(self.elements.shape[0], math.prod(self.shape))
        return flat.scatter(1, self.elements[:, None], 1.0).reshape(-1, *self.shape)

    def dot(self, tensor: Tensor) -> Tensor:
        """The product of each row with a tensor `[*shape]` (of all examples where rows have owners), `[rows]`."""
        if self.owner is not None:
            return rowwise(tensor)[self.owner, self.elements]
        return tensor.reshape(-1)[self.elements]

    def windows(self) -> Windows:
        """The same as windows of extent 1; the value has a plane."""
        channels, *plane = self.shape
        size = math.prod(plane)
        coefficients = self.like.new_zeros(self.elements.shape[0], channels)
        coefficients = coefficients.scatter(1, (self.elements // size)[:, None], 1.0)
        ones, zeros = (1,) * len(plane), (0,) * len(plane)
        grid = Grid(tuple(plane), ones, zeros, tuple(plane))
        return Windows(coefficients.reshape(-1, channels, *ones), self.elements % size, grid, True, self.owner)


@dataclass(frozen=True)
class Columns:
    """Coefficients `[rows, columns]` for some elements of a flat value of a shape; the others are zero. `index` has
    these elements: `[columns]` of one example, or `[examples, columns]`, where `owner` says of which each row is. Where
    an element of several examples stands there again its coefficient is zero."""

    coefficients: Tensor
    index: Tensor
    shape: tuple[int, ...]
    owner: Tensor | None = None

    def select(self, rows: Tensor) -> Columns:
        return replace(self, coefficients=self.coefficients[rows], owner=_selected(self.owner, rows))

    def both_signs(self) -> Columns:
        owner = None if self.owner is None else self.owner.repeat(2)
        return replace(self, coefficients=torch.cat([self.coefficients, -self.coefficients]), owner=owner)

    def times(self, signs: Tensor) -> Columns:
        return replace(self, coefficients=scaled(self.coefficients, signs))

    def of(self, example: int) -> Columns:
        """The same, where all rows are of this example."""
        return replace(self, index=self.index if self.owner is None else self.index[example], owner=None)

    def places(self, *, last: bool) -> Tensor:
        """Where the elements stand in memory, with the channels `last` or not."""
        if not last:
            return self.index
        channels, places = self.shape[0], math.prod(self.shape[1:])
        return self.index % places * channels + self.index // places

    def dense(self) -> Tensor:
        last = len(self.shape) == 3 and prefers_last(self.coefficients[:, None, None])
        flat = self.coefficients.new_zeros(self.coefficients.shape[0], math.prod(self.shape))
        index = self.places(last=last)
        if self.owner is None:  # an element may stand there again, with zero, which must not take its place
            flat = flat.index_add(1, index, self.coefficients)
        else:
            flat = flat.scatter_add(1, index[self.owner], self.coefficients)
        if not last:
            return flat.reshape(-1, *self.shape)
        channels, *plane = self.shape
        return flat.reshape(-1, *plane, channels).permute(0, 3, 1, 2)

    def met(self, tensor: Tensor) -> Tensor:
        """What stands at the columns of a tensor of the value's shape, `[columns]`, or of those of all examples,
        `[examples, columns]`."""
        last = len(self.shape) == 3 and tensor.ndim >= 3 and stands_last(tensor if tensor.ndim > 3 else tensor[None])
        order = tensor.movedim(-3, -1) if last else tensor
        place = self.places(last=last)
        if self.owner is None:
            return order.reshape(-1)[place]
        found = None if recorded(order) else fetch(rowwise(order), place, None)
        return rowwise(order).gather(1, place) if found is None else found

    def at(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self.owner is not None:
            return [self.met(tensor)[self.owner] for tensor in tensors]
        return [self.met(tensor)[None] for tensor in tensors]

    def spots(self, *, last: bool) -> compiled.Spots:
        """Where the coefficients lie in what stands at the columns."""
        count, columns = self.coefficients.shape
        return compiled.Spots.whole(count, columns, owner=self.owner)

    def with_coefficients(self, coefficients: Tensor) -> Columns:
        return replace(self, coefficients=coefficients)

    def dot(self, tensor: Tensor) -> Tensor:
        return products(self.coefficients, self.at([tensor])[0])


@dataclass(frozen=True)
class Dense:
    """All coefficients, `[rows, *shape]`."""

    coefficients: Tensor
    owner: Tensor | None = None

    def select(self, rows: Tensor) -> Dense:
        return Dense(taken(self.coefficients, rows), _selected(self.owner, rows))

    def both_signs(self) -> Dense:
        owner = None if self.owner is None else self.owner.repeat(2)
        return Dense(_both_signs(self.coefficients), owner)

    def times(self, signs: Tensor) -> Dense:
        return Dense(scaled(self.coefficients, signs), self.owner)

    def dense(self) -> Tensor:
        return self.coefficients

    def at(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self.owner is not None:
            return [taken(tensor, self.owner) for tensor in tensors]
        return [tensor[None] for tensor in tensors]

    def spots(self, *, last: bool) -> compiled.Spots:
        """Where the coefficients lie in the value."""
        rows = self.coefficients
        return compiled.Spots.whole(rows.shape[0], math.prod(rows.shape[1:]), owner=self.owner)

    def with_coefficients(self, coefficients: Tensor) -> Dense:
        return Dense(coefficients, self.owner)

    def dot(self, tensor: Tensor) -> Tensor:
        return products(self.coefficients, self.at([tensor])[0])


@dataclass(frozen=True)
class Patches:
    """Coefficients at windows."""

    windows: Windows

    @property
    def coefficients(self) -> Tensor:
        return self.windows.coefficients

    @property
    def owner(self) -> Tensor | None:
        return self.windows.owner

    def select(self, rows: Tensor) -> Patches:
        return Patches(self.windows.select(rows))

    def both_signs(self) -> Patches:
        return Patches(self.windows.both_signs())

    def times(self, signs: Tensor) -> Patches:
        coefficients = scaled(self.coefficients, signs)
        return Patches(self.windows.with_coefficients(coefficients, clean=self.windows.clean))

    def dense(self) -> Tensor:
        return self.windows.dense()

    def at(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Zero beyond the plane."""
        return self.windows.cut(tensors)

    def spots(self, *, last: bool) -> compiled.Spots | None:
        """Where the coefficients lie in the value, stored with the channels `last` or not."""
        return self.windows.spots(last=last)

    def with_coefficients(self, coefficients: Tensor) -> Patches:
        """Coefficients that were multiplied with what stands at the windows, and are zero beyond the plane."""
        return Patches(self.windows.with_coefficients(coefficients, clean=True))

    def dot(self, tensor: Tensor) -> Tensor:
        return products(self.coefficients, self.at([tensor])[0])


Wide: TypeAlias = Columns | Dense | Patches
"""Forms with coefficients."""
Form: TypeAlias = Units | Wide


@dataclass(frozen=True)
class Twice:
    """The rows of a form, and then their negatives, which are not there yet: linear operators take one to the other."""

    half: Form

    def select(self, rows: Tensor) -> Twice:
        """Some of the rows, and then their negatives, in the same order."""
        return Twice(self.half.select(rows[: rows.shape[0] // 2]))

    def whole(self) -> Wide:
        """All rows."""
        return self.half.both_signs()

    def dense(self) -> Tensor:
        return self.whole().dense()


Rows: TypeAlias = Form | Twice


def _both_signs(rows: Tensor) -> Tensor:
    """Rows and then their negatives, stored as they are."""
    dense = rows.is_contiguous() or stands_last(rows)
    if not dense or _recorded(rows):
        return torch.cat([rows, -rows])
    strides = math.prod(rows.shape[1:]), *rows.stride()[1:]  # a single row may have any step to the next
    found = rows.new_empty_strided((2 * rows.shape[0], *rows.shape[1:]), strides)
    found[: rows.shape[0]] = rows
    torch.neg(rows, out=found[rows.shape[0] :])  # one copy less
    return found


def _selected(owner: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if owner is None else owner[rows]


def scaled(rows: Tensor, factors: Tensor) -> Tensor:
    """Rows `[rows, ...]`, each times its own factor `[rows]`."""
    return rows * factors.to(rows.dtype).reshape(-1, *(1,) * (rows.ndim - 1))  # a cast may have been on the way


def products(rows: Tensor, other: Tensor) -> Tensor:
    """The product of each row `[rows, ...]` with a tensor of the same shape, or one for all rows `[1, ...]`."""
    if rows.ndim == 4 and not rows.is_contiguous():
        rows, other = rows.permute(0, 2, 3, 1), other.permute(0, 2, 3, 1)
    rows, other = rowwise(rows), rowwise(other)
    return rows @ other[0] if other.shape[0] == 1 else torch.linalg.vecdot(rows, other)


def pieces(form: Wide, tensors: Sequence[Tensor]) -> list[tuple[slice, list[Tensor]]]:
    """The rows in parts, and for each the tensors `at` its coefficients: where an example has many coefficients, its
    tensors are met where they are, not copied for each row; rows and their negatives meet the same windows."""
    if isinstance(form, Dense) and form.owner is not None and form.coefficients.numel() >= MANY:
        owners, counts = form.owner.unique_consecutive(return_counts=True)
        if form.coefficients.numel() >= MANY * owners.shape[0]:
            ends = counts.cumsum(0)
            runs = zip((ends - counts).tolist(), ends.tolist(), owners.tolist(), strict=True)
            return [(slice(i, k), [tensor[owner : owner + 1] for tensor in tensors]) for i, k, owner in runs]
    if isinstance(form, Patches) and form.windows.twice and form.coefficients.numel() >= 2 * MANY:
        met, count = form.windows.half().cut(tensors), form.coefficients.shape[0] // 2
        return [(slice(0, count), met), (slice(count, None), met)]
    return [(slice(None), form.at(tensors))]


def as_compiled(form: Wide, tensors: Sequence[Tensor | None]) -> tuple[compiled.Spots, list[Tensor | None]] | None:
    """Where the coefficients lie, and the tensors that they meet, in the order in memory that they stand in; None where
    these stand in another, or derivatives are asked for."""
    rows = form.coefficients
    if recorded(rows, *tensors):
        return None
    if not available():
        return None
    if isinstance(form, Columns):
        met = [None if part is None else form.met(part) for part in tensors]
        return (form.spots(last=False), met) if rows.is_contiguous() else None
    try:
        last = _order(rows, tensors)
    except RuntimeError:  # tensors of vmap do not say how they stand
        return None
    spots = None if last is None else form.spots(last=last)
    return None if spots is None else (spots, list(tensors))


def _order(rows: Tensor, tensors: Sequence[Tensor | None]) -> bool | None:
    """Whether rows and what they meet stand in memory with the channels last, or in the order of their axes; None where
    they stand in different orders."""
    rank = rows.ndim - 1
    for last in (True, False):
        if not (stands_last(rows) if last else rows.is_contiguous()):
            continue
        stride: tuple[int, ...] | None = None
        for part in tensors:
            if part is None or part.stride() == stride:
                continue
            if not in_order(part, rank, last=last):
                break
            stride = part.stride()
        else:
            return last
    return None


def minimum(form: Wide, center: Tensor, radius: Tensor) -> Tensor:
    """The minimum of each row over the box of this centre and radius, `[rows]`."""
    told = as_compiled(form, (center, radius))
    if told is not None:
        spots, (middle, reach) = told
        assert middle is not None
        assert reach is not None
        least = compiled.minimum(form.coefficients, spots, middle, reach)
        if least is not None:
            return least
    found = []
    for rows, (middle, reach) in pieces(form, [center, radius]):
        coefficients = form.coefficients[rows]
        found.append(products(coefficients, middle) - products(coefficients.abs(), reach))
    return found[0] if len(found) == 1 else torch.cat(found)


def spread(form: Rows) -> Wide:
    """The form with coefficients: as small as it goes."""
    if isinstance(form, Twice):
        return form.whole()
    if not isinstance(form, Units):
        return form
    return Patches(form.windows()) if len(form.shape) > 1 else Dense(form.dense(), form.owner)


def unowned(form: Form) -> Form:
    """The rows for tensors that are the same for all examples."""
    if isinstance(form, Patches):
        return Patches(replace(form.windows, owner=None))
    if isinstance(form, Columns) and form.owner is not None:
        return Dense(form.dense())
    return replace(form, owner=None)


def alone(form: Rows, example: int) -> Rows:
    """The same, where all rows are of this example."""
    if isinstance(form, Twice):
        return Twice(form.half.of(example) if isinstance(form.half, Columns) else unowned(form.half))
    return form.of(example) if isinstance(form, Columns) else unowned(form)


def shared(first: Rows, second: Rows) -> bool:
    """Whether they may stand in the same memory."""
    one, two = (form.half if isinstance(form, Twice) else form for form in (first, second))
    if one is two:
        return True
    if isinstance(one, Units) or isinstance(two, Units):
        return False
    try:
        return _memory(one) == _memory(two)
    except (RuntimeError, NotImplementedError):  # a function transform's tensor has none that it tells of
        return True


def _memory(form: Wide) -> int:
    return form.coefficients.untyped_storage().data_ptr()


def joined(first: Rows, second: Rows, *, own: bool = False) -> Rows:
    """`plus`, where negatives may not be there yet."""
    if isinstance(second, Twice):
        if isinstance(first, Twice):
            return Twice(plus(first.half, second.half, own=own))
        return plus(first, second.whole(), own=True)
    if not isinstance(first, Twice):
        return plus(first, second, own=own)
    if not (own and isinstance(second, Dense)):
        return plus(first.whole(), second, own=own)
    half, more = spread(first.half), second.coefficients
    if _recorded(half.coefficients, more) or half.coefficients.dtype != more.dtype:
        return plus(first.whole(), second, own=own)
    ahead, behind = more.chunk(2)
    _add_to(ahead, half, 1)
    _add_to(behind, half, -1)
    return second


def plus(first: Form, second: Form, *, own: bool = False) -> Form:
    """The sum of rows over one value; in the memory of the second ones if these are the caller's `own`."""
    one, two = spread(first), spread(second)
    if isinstance(one, Patches) and isinstance(two, Patches):
        total = one.windows.plus(two.windows)
        if total is not None:
            return Patches(total)
    more = two.dense()
    own = own or two is not second or not isinstance(two, Dense)
    if not own or _recorded(one.coefficients, more) or one.coefficients.dtype != more.dtype:
        return Dense(one.dense() + more, one.owner)
    _add_to(more, one, 1)
    return Dense(more, one.owner)


def _add_to(rows: Tensor, form: Wide, sign: Literal[1, -1]) -> None:
    """Adds a form, times a sign, to rows over the whole value, in their memory."""
    if not isinstance(form, Patches) or not form.windows.add_to(rows, sign):
        rows.add_(form.dense(), alpha=sign)


def _recorded(*rows: Tensor) -> bool:
    """Whether something may follow what is done to rows."""
    return recorded(*rows) or torch._C._are_functorch_transforms_active()  # whose tensors do not tell

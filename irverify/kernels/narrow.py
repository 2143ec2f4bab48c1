"""Rows that have coefficients for some elements of their example only."""

from __future__ import annotations

from torch import Tensor

from irverify.kernels.native import addresses, alike, head, indices, native, within


def used(source: Tensor, none: int, first: Tensor | None, *others: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The flat elements of each example at which one of up to four tensors `[examples, ...]` is not zero and `source`
    `[elements]` not negative, and the `source` of each: `[examples, columns]` both. Examples that have fewer elements
    than others, and any without, have the first of all again, and `none` for its source."""
    slope, *given = [part for part in (first, *others) if part is not None]
    found = alike(slope, *given)
    if found is None or native is None or not slope.is_contiguous() or type(source) is not Tensor or not source.is_cpu:
        return None
    examples, size = slope.shape[0], source.numel()
    if not size or slope.numel() != examples * size:
        return None
    source = indices(source)
    index, counts = source.new_empty(examples, size), source.new_empty(examples)
    places = source.data_ptr(), index.data_ptr(), counts.data_ptr()
    native.used(*head(slope), examples, size, *found, *(0,) * (4 - len(found)), *places)
    most = max(1, int(counts.max()))
    elements, sources = source.new_empty(examples, most), source.new_empty(examples, most)
    told = index.data_ptr(), counts.data_ptr(), source.data_ptr(), elements.data_ptr(), sources.data_ptr()
    native.filled(*head(slope), examples, size, most, none, *told)
    return elements, sources


def fetch(rows: Tensor, source: Tensor, owner: Tensor | None) -> Tensor | None:
    """Of rows `[rows, elements]` those at `source` `[examples, columns]` of the example `owner` `[rows]`; without it
    all are of the first, or there is one for each: `[rows, columns]`; 0 for an element that is one after the last."""
    found, each = addresses(rows), owner is None and len(source) > 1
    if found is None or native is None or not rows.is_contiguous() or type(source) is not Tensor or not source.is_cpu:
        return None
    source, owner = indices(source), indices(owner)
    if not source.numel() or not within(source, rows.shape[1] + 1) or (each and len(source) != len(rows)):
        return None
    if owner is not None and (owner.shape != rows.shape[:1] or not within(owner, len(source))):
        return None
    result = rows.new_empty(rows.shape[0], source.shape[1])
    numbers = *rows.shape, source.shape[1], each, source.data_ptr(), 0 if owner is None else owner.data_ptr()
    native.fetch(*head(result), *numbers, *found, result.data_ptr())
    return result

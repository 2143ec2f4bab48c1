"""Values of rows up through the lines around ReLUs, and rows down along these with some slopes turned over.

Rows are `[rows, *shape]`, each of the example that `owner` says; the lines of all examples, `[examples, *shape]`, or
without an owner of the one that there is, `[*shape]`, are `slope x` below and `(slope + rise) x + top` above. Whatever
stands in memory in another order than the rows is None's to answer."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native, within


def upward(
    rows: Tensor,
    values: Tensor,
    owner: Tensor | None,
    slope: Tensor,
    rise: Tensor,
    top: Tensor,
    greatest: Tensor,
    *,
    spent: bool = False,
) -> Tensor | None:
    """For coefficients `rows` over the results and `values` of the operands, which become those of the results: how
    much each row gains, to first order, by the slope `1 - slope` below, 0 where that is nothing. `greatest` `[rows]`
    becomes the greatest of these where it is less. Of rows that are `spent` they take the memory."""
    size = _size(rows, owner, (values,), (slope, rise, top), greatest)
    found = None if size is None else addresses(rows, values, slope, rise, top, greatest)
    if size is None or found is None or native is None:
        return None
    gains, held = rows if spent else torch.empty_like(rows), indices(owner)
    told = rows.shape[0], size, 0 if held is None else held.data_ptr()
    native.upward(*head(rows), *told, found[0], *found[2:5], found[1], gains.data_ptr(), found[5])
    return gains


def turned(
    rows: Tensor, gains: Tensor, least: Tensor, owner: Tensor | None, slope: Tensor, rise: Tensor, top: Tensor
) -> tuple[Tensor, Tensor] | None:
    """The rows over the operands, and their constants `[rows]`; the slope below is `1 - slope` where `gains` are more
    than `least` `[rows]`."""
    size = _size(rows, owner, (gains,), (slope, rise, top), least)
    found = None if size is None else addresses(rows, gains, least, slope, rise, top)
    if size is None or found is None or native is None:
        return None
    passed, constants, held = torch.empty_like(rows), rows.new_empty(rows.shape[0]), indices(owner)
    told = rows.shape[0], size, 0 if held is None else held.data_ptr()
    native.turned(*head(rows), *told, *found, passed.data_ptr(), constants.data_ptr())
    return passed, constants


def _size(
    rows: Tensor, owner: Tensor | None, others: tuple[Tensor, ...], lines: tuple[Tensor, ...], each: Tensor
) -> int | None:
    """How many elements a row has, of which there are any; None where sizes or orders in memory do not fit."""
    count, shape, stride = rows.shape[0], rows.shape[1:], rows.stride()
    size = rows.numel() // max(1, count)
    if not rows.is_contiguous() and not (rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)):
        return None
    if size == 0 or stride[0] != size or any(part.shape != rows.shape or part.stride() != stride for part in others):
        return None
    if each.shape != (count,) or not each.is_contiguous():
        return None
    if owner is None:
        own = stride[1:]
        return size if all(part.shape == shape and part.stride() == own for part in lines) else None
    examples = lines[0].shape[0]
    whole = examples, *shape
    if examples == 0 or any(part.shape != whole or part.stride() != stride for part in lines):
        return None
    return size if owner.shape == (count,) and within(owner, examples) else None

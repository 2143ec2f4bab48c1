"""Values of rows up through the lines around ReLUs, and rows down along these with some slopes turned over.

Rows are `[rows, ...]`, each of the example that `owner` says, or all of the first; the lines of all examples,
`[examples, ...]`, are `slope x` below and `(slope + rise) x + top` above. All stand in memory in the order of the rows,
one element after the other, which is the caller's to see to."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native, within


def upward(
    rows: Tensor, values: Tensor, owner: Tensor | None, slope: Tensor, rise: Tensor, top: Tensor, greatest: Tensor
) -> Tensor | None:
    """For coefficients `rows` over the results and `values` of the operands, which become those of the results: how
    much each row gains, to first order, by the slope `1 - slope` below, 0 where that is nothing. `greatest` `[rows]`
    becomes the greatest of these where it is less."""
    size = _size(rows, owner, (values,), (slope, rise, top), greatest)
    found = None if size is None else addresses(rows, values, slope, rise, top, greatest)
    if size is None or found is None or native is None:
        return None
    gains, held = torch.empty_like(rows), indices(owner)
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
    """How many elements a row has, of which there are any; None where sizes do not fit one another."""
    count = rows.shape[0]
    size = rows.numel() // max(1, count)
    if size == 0 or any(part.shape != rows.shape or part.stride() != rows.stride() for part in others):
        return None
    if each.shape != (count,) or not each.is_contiguous():
        return None
    examples, rest = divmod(lines[0].numel(), size)
    if rest or examples == 0 or any(part.numel() != lines[0].numel() for part in lines):
        return None
    if owner is not None and (owner.shape != (count,) or not within(owner, examples)):
        return None
    return size

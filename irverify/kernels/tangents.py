"""Rows around a function between tangents, one below and one above, of which a coefficient meets one: by its sign."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, indices, native, within


class Taken(NamedTuple):
    """The rows along the lines taken, and their constants `[rows]`; the lines' slopes and constants."""

    passed: Tensor
    constants: Tensor
    slope: Tensor
    constant: Tensor


def touch(rows: Tensor, choices: Tensor) -> Tensor | None:
    """Where the tangents touch that rows `[rows, size]` meet, out of choices `[rows, 2 size]`: all below, then all
    above."""
    found = addresses(rows, choices)
    if found is None or native is None or choices.shape != (rows.shape[0], 2 * rows.shape[1]):
        return None
    if not rows.numel() or not rows.is_contiguous() or choices.stride(1) != 1:
        return None
    point = torch.empty_like(rows)
    native.touch(*head(rows), *rows.shape, choices.stride(0), *found, point.data_ptr())
    return point


def taken(
    rows: Tensor, owner: Tensor | None, lines: Tensor, point: Tensor, value: Tensor, slope: Tensor
) -> Taken | None:
    """Rows along the tangents at points where the function has this value and slope, or along the lines where none is
    free: `lines` `[examples, 6, size]` are 1 where it is, else 0, slope and constant of the line where it is not, else
    0, below and then above."""
    given = rows, lines, point, value, slope
    found = addresses(*given)
    if found is None or native is None or not _fit(rows, owner, lines, (point, value, slope)):
        return None
    passed, constants = torch.empty_like(rows), rows.new_empty(rows.shape[0])
    result = Taken(passed, constants, torch.empty_like(rows), torch.empty_like(rows))
    owner = indices(owner)
    places = [result.slope, result.constant, result.passed, result.constants]
    told = 0 if owner is None else owner.data_ptr(), *found, *(part.data_ptr() for part in places)
    native.tangents(*head(rows), *rows.shape, *told)
    return result


def taken_back(
    rows: Tensor, owner: Tensor | None, lines: Tensor, point: Tensor, bend: Tensor, met: tuple[Tensor, Tensor],
    x: Tensor, *, wanted: bool,
) -> tuple[Tensor, Tensor | None] | None:  # fmt: skip
    """The gradient in the choices `[rows, 2 size]` at the operand x, of a function with the second derivative `bend` at
    the points; and, where `wanted`, the value of the lines that were taken, `met`: slopes and constants."""
    parts = point, bend, *met, x
    found = addresses(rows, lines, *parts)
    if found is None or native is None or not _fit(rows, owner, lines, parts):
        return None
    owner = indices(owner)
    gradient = rows.new_empty(rows.shape[0], 2 * rows.shape[1])
    value = torch.empty_like(rows) if wanted else None
    results = gradient.data_ptr(), 0 if value is None else value.data_ptr()
    native.tangents_back(*head(rows), *rows.shape, 0 if owner is None else owner.data_ptr(), *found, *results)
    return gradient, value


def _fit(rows: Tensor, owner: Tensor | None, lines: Tensor, parts: tuple[Tensor, ...]) -> bool:
    """Whether the sizes are those of rows of these examples, which stand one after the other."""
    if not rows.numel() or not lines.shape[0] or lines.shape[1:] != (6, *rows.shape[1:]):
        return False
    if not lines.is_contiguous() or not rows.is_contiguous():
        return False
    if any(part.shape != rows.shape or not part.is_contiguous() for part in parts):
        return False
    return owner is None or (owner.shape == rows.shape[:1] and within(owner, lines.shape[0]))

"""Bounds met with others; lines around ReLUs from bounds of their operands, and the gradients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from irverify.kernels.native import addresses, alike, head, indices, native

CHOICES = ("adaptive", "zero", "same")
"""Of the line below, in the order that compiled code counts them in."""


def relu_lines(
    lower: Tensor, upper: Tensor, choice: Literal["adaptive", "zero", "same"]
) -> tuple[Tensor, Tensor, Tensor, bool] | None:
    """The slope of the line below, slope and constant of the chord above, and whether all are finite, as is the
    width."""
    found = alike(lower, upper)
    if found is None or native is None:
        return None
    results = torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(lower)
    places = (tensor.data_ptr() for tensor in results)
    finite = native.relu_lines(*head(lower), CHOICES.index(choice), lower.numel(), *found, *places)
    return *results, finite


def lines(
    lower: Tensor, upper: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor] | None:
    """Of bounds `[examples, size]`: the slope below, what the slope above has more, and the constants below and above.
    With an `offset` `[size]` the lines are around `relu(x + offset)` as functions of x, and x + offset has the bounds;
    without one nothing is below."""
    if not _fit(lower, (upper,), offset):
        return None
    found = addresses(lower, upper, offset)
    if found is None or native is None:
        return None
    slope, rise, top = torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(lower)
    base = None if offset is None else torch.empty_like(lower)
    results = [0 if tensor is None else tensor.data_ptr() for tensor in (slope, rise, base, top)]
    native.lines(*head(lower), *lower.shape, *found, *results)
    return slope, rise, base, top


def lines_back(
    lower: Tensor, upper: Tensor, offset: Tensor | None, of_rise: Tensor, of_base: Tensor | None, of_top: Tensor
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The gradients in bounds and offset from those in the last three of `lines`."""
    if not _fit(lower, (upper, of_rise, of_base, of_top), offset) or (offset is None) != (of_base is None):
        return None
    found = addresses(lower, upper, offset, of_rise, of_base, of_top)
    if found is None or native is None:
        return None
    of_lower, of_upper = torch.empty_like(lower), torch.empty_like(upper)
    of_offset = None if offset is None else torch.empty_like(offset)
    results = [0 if tensor is None else tensor.data_ptr() for tensor in (of_lower, of_upper, of_offset)]
    native.lines_back(*head(lower), *lower.shape, *found, *results)
    return of_lower, of_upper, of_offset


def meet(
    lower: Tensor, upper: Tensor, found: Tensor, elements: Tensor, owner: Tensor | None, sides: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Bounds `[size]`, or with `owner` `[pairs]` `[examples, size]`, met in place: `found` `[2 pairs]` has lower bounds
    of the `elements` `[pairs]` and then of their negatives, or with `sides` `[pairs]`, 1 or -1, `[pairs]` lower bounds
    of the element or of its negative. What is not a number says nothing. Returns what is known of the elements then."""
    pairs, axes = elements.shape[0], 1 if owner is None else 2
    whole = all(part.is_contiguous() for part in (lower, upper, found))
    if lower.ndim != axes or upper.shape != lower.shape or found.shape != (pairs if sides is not None else 2 * pairs,):
        return None
    if not whole or any(part is not None and part.shape != (pairs,) for part in (owner, sides)):
        return None
    sides = None if sides is None else sides.contiguous()
    given = addresses(lower, upper, found, sides)
    if given is None or native is None:
        return None
    low, high = lower.new_empty(pairs), lower.new_empty(pairs)
    held = indices(elements), indices(owner)  # as long as their addresses are read
    at = (0 if index is None else index.data_ptr() for index in held)
    told = pairs, lower.numel(), lower.shape[-1], *at, given[3], given[2], *given[:2], low.data_ptr(), high.data_ptr()
    return (low, high) if native.meet(*head(lower), *told) else None


def _fit(lower: Tensor, others: tuple[Tensor | None, ...], offset: Tensor | None) -> bool:
    """Whether all have the shape of `lower`, but for the offset, and stand in memory in the order of their axes."""
    if lower.ndim != 2 or not (offset is None or (offset.shape == lower.shape[1:] and offset.is_contiguous())):
        return False
    alike = all(other is None or (other.shape == lower.shape and other.is_contiguous()) for other in others)
    return alike and lower.is_contiguous()

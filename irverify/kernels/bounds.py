"""Bounds met with others; lines around ReLUs from bounds of their operands, and the gradients; bounds and lines in the
order in memory that rows meet them in."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from irverify.kernels.native import addresses, alike, head, indices, native

CHOICES = ("adaptive", "zero", "same")
"""Of the line below, in the order that compiled code counts them in."""
RISE, BASE, TOP = 1, 2, 4
"""Parts of lines that are not zero everywhere, as compiled code says it."""


def relu_lines(
    lower: Tensor, upper: Tensor, choice: Literal["adaptive", "zero", "same"] | Tensor
) -> tuple[Tensor, Tensor, Tensor, bool] | None:
    """The slope of the line below, slope and constant of the chord above, and whether all are finite, as is the
    width. A tensor as choice is adaptive: slope 1 where it is above 0, and not the sum of the bounds."""
    lean = choice if isinstance(choice, Tensor) else None
    found = alike(lower, upper) if lean is None else alike(lower, upper, lean)
    if found is None or native is None:
        return None
    results = torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(lower)
    places = (tensor.data_ptr() for tensor in results)
    number = 0 if isinstance(choice, Tensor) else CHOICES.index(choice)
    given = found if lean is not None else (*found, 0)
    finite = native.relu_lines(*head(lower), number, lower.numel(), *given, *places)
    return *results, finite


def relu_met(
    lower: Tensor, upper: Tensor, choice: Literal["adaptive", "zero", "same"] | Tensor, *, last: bool
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """`met_lines` of `relu_lines`: the slope of the line below, what the one above has more, and its constant, of
    intervals of finite width."""
    lean = choice if isinstance(choice, Tensor) else None
    found = addresses(lower, upper, lean)
    turns = None if found is None else _turns(last, *((lower, upper) if lean is None else (lower, upper, lean)))
    if found is None or native is None or turns is None:
        return None
    slope, rise, top = made = _turned(3, lower, turns)
    places = (tensor.data_ptr() for tensor in made)
    number = 0 if isinstance(choice, Tensor) else CHOICES.index(choice)
    has = native.relu_met(*head(lower), number, *turns, *found, *places)
    return slope, rise if has & RISE else None, top if has & TOP else None


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
    lower: Tensor,
    upper: Tensor,
    found: Tensor,
    elements: Tensor,
    owner: Tensor | None,
    sides: Tensor | None,
    lean: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Bounds `[size]`, or with `owner` `[pairs]` `[examples, size]`, met in place: `found` `[2 pairs]` has lower bounds
    of the `elements` `[pairs]` and then of their negatives, or with `sides` `[pairs]`, 1 or -1, `[pairs]` lower bounds
    of the element or of its negative. What is not a number says nothing. Returns what is known of the elements then.
    The sum of both bounds that were found becomes the element's `lean`, in a tensor like the bounds; with `sides` the
    one is added to it."""
    pairs, axes = elements.shape[0], 1 if owner is None else 2
    whole = all(part is None or part.is_contiguous() for part in (lower, upper, found, lean))
    if lower.ndim != axes or upper.shape != lower.shape or found.shape != (pairs if sides is not None else 2 * pairs,):
        return None
    if lean is not None and lean.shape != lower.shape:
        return None
    if not whole or any(part is not None and part.shape != (pairs,) for part in (owner, sides)):
        return None
    sides = None if sides is None else sides.contiguous()
    given = addresses(lower, upper, found, sides, lean)
    if given is None or native is None:
        return None
    low, high = lower.new_empty(pairs), lower.new_empty(pairs)
    held = indices(elements), indices(owner)  # as long as their addresses are read
    at = (0 if index is None else index.data_ptr() for index in held)
    told = pairs, lower.numel(), lower.shape[-1], *at, given[3], given[2], *given[:2], given[4]
    return (low, high) if native.meet(*head(lower), *told, low.data_ptr(), high.data_ptr()) else None


def tightened(lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor] | None:
    """Bounds met with `low` and `high`, of the same elements: of these what is not a number, or is infinite on the
    wrong side, says nothing. What has crossed changes places."""
    found = alike(lower, upper, low, high)
    if found is None or native is None:
        return None
    below, above = torch.empty_like(lower), torch.empty_like(lower)
    native.tighten(*head(lower), lower.numel(), *found, below.data_ptr(), above.data_ptr())
    return below, above


def ordered(lower: Tensor, upper: Tensor) -> bool | None:
    """Whether lower <= upper everywhere, and none is infinite on the wrong side; what is not a number fails."""
    found = alike(lower, upper)
    if found is None or native is None:
        return None
    good: bool = native.ordered(*head(lower), lower.numel(), *found)
    return good


def finite(lower: Tensor, upper: Tensor) -> bool | None:
    """Whether all of these intervals have a finite width."""
    found = alike(lower, upper)
    if found is None or native is None:
        return None
    good: bool = native.all_finite(*head(lower), lower.numel(), *found)
    return good


def inside(lower: Tensor, upper: Tensor, points: Sequence[float]) -> Tensor | None:
    """Whether one of the points, of which there are any, is strictly inside the interval, for each element."""
    found = alike(lower, upper)
    if found is None or native is None or not points:
        return None
    open_, told = torch.empty_like(lower, dtype=torch.bool), array("d", points)
    native.inside(*head(lower), lower.numel(), *found, len(told), told.buffer_info()[0], open_.data_ptr())
    return open_


def middle(lower: Tensor, upper: Tensor, *, last: bool) -> tuple[Tensor, Tensor] | None:
    """Centre and radius of bounds; with `last` of planes `[..., channels, height, width]`, which then have the channels
    last in memory."""
    found = addresses(lower, upper)
    turns = None if found is None else _turns(last, lower, upper)
    if found is None or native is None or turns is None:
        return None
    center, radius = _turned(2, lower, turns)
    native.middle(*head(lower), *turns, *found, center.data_ptr(), radius.data_ptr())
    return center, radius


def met_lines(
    slope: Tensor, high: Tensor, base: Tensor | None, top: Tensor | None, *, last: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None] | None:
    """Of the slopes of the lines below and above, and their constants: the slope below, what the one above has more,
    and the constants, None for zeros. With `last` of planes `[..., channels, height, width]`, which then have the
    channels last in memory."""
    found = addresses(slope, high, base, top)
    turns = None if found is None else _turns(last, *(part for part in (slope, high, base, top) if part is not None))
    if found is None or native is None or turns is None:
        return None
    given = [part is not None for part in (slope, high, base, top)]
    made = iter(_turned(sum(given), slope, turns))
    results = [next(made) if there else None for there in given]
    places = (0 if part is None else part.data_ptr() for part in results)
    has = native.met_lines(*head(slope), *turns, *found, *places)
    below, rise, low, up = results
    assert below is not None
    return below, rise if has & RISE else None, low if has & BASE else None, up if has & TOP else None


def _turns(last: bool, *tensors: Tensor) -> tuple[int, int, int] | None:
    """Tensors of one shape as `[outer, channels, places]` for what turns them to `[outer, places, channels]`, with one
    channel where they stand in that order already; None for other orders."""
    first = tensors[0]
    if any(part.shape != first.shape for part in tensors[1:]):
        return None
    if not all(part.is_contiguous() for part in tensors):
        stride, turned = first.stride(), last and first.ndim >= 3 and first.movedim(-3, -1).is_contiguous()
        return (1, 1, first.numel()) if turned and all(part.stride() == stride for part in tensors) else None
    if not last or first.shape[-3] == 1:
        return 1, 1, first.numel()
    channels, height, width = first.shape[-3:]
    return first.numel() // max(1, channels * height * width), channels, height * width


def _turned(count: int, like: Tensor, turns: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """So many tensors like this one, in the order that it is turned to."""
    if turns[1] == 1:
        return tuple(torch.empty_like(like) for _ in range(count))
    outer, strides = like.shape[-3:].numel(), [1, like.shape[-1] * like.shape[-3], like.shape[-3]]
    for size in reversed(like.shape[:-3]):
        strides.insert(0, outer)
        outer *= size
    return tuple(like.new_empty_strided(like.shape, strides) for _ in range(count))  # views would take more memory


def _fit(lower: Tensor, others: tuple[Tensor | None, ...], offset: Tensor | None) -> bool:
    """Whether all have the shape of `lower`, but for the offset, and stand in memory in the order of their axes."""
    if lower.ndim != 2 or not (offset is None or (offset.shape == lower.shape[1:] and offset.is_contiguous())):
        return False
    alike = all(other is None or (other.shape == lower.shape and other.is_contiguous()) for other in others)
    return alike and lower.is_contiguous()

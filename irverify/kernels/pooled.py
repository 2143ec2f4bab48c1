"""Rows over the windows of a pooling, side by side, through lines and the adjoint of a convolution at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.kernels.adjoint import CHIP, SHORT, told
from irverify.kernels.native import addresses, head, indices, native, within


class Choices(NamedTuple):
    """Of each window of a maximum, `[examples, channels, *windows]`: the place of an element in its plane, 1 where the
    maximum is certain to be this one, else 0, and a bound from above where it is not."""

    place: Tensor
    certain: Tensor
    ceiling: Tensor


class Around(NamedTuple):
    """Lines around what a pooling reads, `[examples, channels, height, width]`: slopes of those below and above, and
    their constants, None for zero."""

    low: Tensor
    high: Tensor
    base: Tensor | None
    top: Tensor | None


def adjoint_of_pooled(  # noqa: PLR0913 -- all are told to compiled code
    rows: Tensor,
    kernel: Sequence[int],
    choices: Choices | None,
    around: Around | None,
    owner: Tensor | None,
    plane: Sequence[int],
    weight: Tensor,
    offset: Tensor | None,
    stride: Sequence[int],
    first: Sequence[int],
    extents: Sequence[int],
) -> tuple[Tensor, Tensor] | None:
    """Rows `[rows, channels, *windows]` over the means of windows `kernel`, or over maxima with their `choices`, of
    planes `[channels, *plane]`, which a convolution makes, with lines `around` it (there may be none around what is
    chosen from): over the operand of the convolution `[rows, *extents, in]`, with their constants `[rows]`. The first
    window of the convolution begins `first` elements before its operand; `offset` `[channels]` is what it adds.

    A positive coefficient meets the line below, another one that above; so it is for what a maximum chooses. Rows are
    of the examples `owner` `[rows]`, in ascending order, or all of the first. None where there is no compiled code for
    these, or other ways are faster.
    """
    if around is None and choices is None:
        return None  # all elements count
    lines, chosen = around or (None,) * 4, choices or (None,) * 3
    if addresses(rows, weight, offset, *lines, *chosen[1:]) is None or native is None or rows.ndim != 4:
        return None
    count, channels, *windows = rows.shape
    if len(plane) != 2 or tuple(windows) != tuple(extent // wide for extent, wide in zip(plane, kernel, strict=True)):
        return None
    if weight.shape[0] != channels or not (offset is None or offset.shape == (channels,)):
        return None
    if offset is not None and not offset.is_contiguous():
        return None
    examples = _examples(rows, choices, around, plane)
    owner = indices(owner)
    if examples is None or (owner is not None and (owner.shape != (count,) or not within(owner, examples))):
        return None
    step = _step(rows)
    numbers = told((*plane, channels), weight, (*stride, *first, *extents))
    if numbers is None or step is None or count < SHORT or not rows.numel():
        return None
    found, constants = rows.new_empty(count, *extents, weight.shape[1]), rows.new_empty(count)
    weight = weight.contiguous()
    met = [0 if part is None else part.data_ptr() for part in (*chosen, *lines, offset, constants)]
    at = CHIP, rows.data_ptr(), weight.data_ptr(), found.data_ptr()
    looked = math.prod(rows.shape[1:]), 0, 0, 0 if owner is None else owner.data_ptr()
    done = native.adjoint_of_pooled(*head(found), count, *numbers, *looked, *at, *windows, *kernel, *step, *met)
    return (found, constants) if done else None


def _step(rows: Tensor) -> tuple[int, int] | None:
    """How far neighbouring channels, and neighbouring windows, are apart in a row; None for other orders."""
    _, channels, height, width = rows.shape
    if rows.is_contiguous():
        return height * width, 1
    stands_last = rows.permute(0, 2, 3, 1).is_contiguous()
    return (1, channels) if stands_last else None


def _examples(
    rows: Tensor, choices: Choices | None, around: Around | None, plane: Sequence[int]
) -> int | None:
    """Of how many examples there is something that rows meet; None where it does not fit them, or its elements do not
    stand in memory in the order of their axes."""
    examples = 0
    if around is not None:
        examples = around.low.shape[0]
        shape = examples, rows.shape[1], *plane
        for part in around:
            if part is not None and (part.shape != shape or not part.is_contiguous()):
                return None
    if choices is not None:
        examples = examples or choices.place.shape[0]
        shape = examples, *rows.shape[1:]
        if any(part.shape != shape or not part.is_contiguous() for part in choices):
            return None
    if choices is not None and not (type(choices.place) is Tensor and choices.place.is_cpu):
        return None
    return examples if choices is None or choices.place.dtype == torch.int64 else None

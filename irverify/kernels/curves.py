"""Lines around sigmoid and tanh from bounds of their operands, and what can be chosen among their tangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from irverify.kernels.native import alike, head, native

CurveName: TypeAlias = Literal["sigmoid", "tanh"]
NAMES = ("sigmoid", "tanh")
"""In the order that compiled code counts them in."""


class Touching(NamedTuple):
    """The least and the greatest point whose tangent is valid, and the one that the line touches at, where there is
    one, else 0; 1 or 0; slope and constant of the line where there is none, else 0."""

    least: Tensor
    most: Tensor
    start: Tensor
    weight: Tensor
    fixed: tuple[Tensor, Tensor]


def curve_lines(curve: CurveName, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Slope and constant of a line below and of one above, as `passes.curves.s_shaped` has them; None too where any
    number, or the width of an interval, is not finite."""
    found = alike(lower, upper)
    if found is None or native is None:
        return None
    lines = torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(lower), torch.empty_like(lower)
    places = (tensor.data_ptr() for tensor in lines)
    finite = native.curve_lines(*head(lower), NAMES.index(curve), lower.numel(), *found, *places)
    return lines if finite else None


def curve_tangents(
    curve: CurveName, lower: Tensor, upper: Tensor, lines: Sequence[Tensor]
) -> tuple[Touching, Touching] | None:
    """What can be chosen below and above, from bounds and the four tensors of the lines around them. None too where the
    width of an interval is not finite."""
    found = alike(lower, upper, *lines)
    if found is None or native is None or len(lines) != 4 or not lower.is_contiguous():
        return None
    parts = lower.new_empty(12, *lower.shape)
    finite = native.curve_tangents(*head(lower), NAMES.index(curve), lower.numel(), *found, parts.data_ptr())
    if not finite:
        return None
    below, above = (
        Touching(least, most, start, weight, (slope, constant))
        for least, most, start, weight, slope, constant in (parts[:6].unbind(0), parts[6:].unbind(0))
    )
    return below, above

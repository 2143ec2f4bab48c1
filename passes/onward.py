"""Rows over all elements on their way through a convolution, and the lines around it, at once, by compiled code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from irverify.ir.ops import Conv
from irverify.ir.ops.base import param_value
from irverify.ir.params import value
from irverify.ir.recording import recorded
from irverify.kernels.adjoint import BentAdjoint, Met
from irverify.passes.backward import Context
from irverify.passes.bent import Lines
from irverify.passes.forms import Dense
from irverify.passes.relaxations import Affine

SPARSE = 2**9
"""To so many elements zeros are written as fast as not."""


@dataclass(frozen=True)
class Filter:
    """A convolution over two axes, whose first window begins `first` elements before the operand, of these `extents`;
    `offset` `[out]` is what it adds to each channel."""

    weight: Tensor
    offset: Tensor | None
    stride: Sequence[int]
    first: Sequence[int]
    extents: Sequence[int]

    @classmethod
    def of(cls, affine: Affine) -> Filter | None:
        """None for another operator, and for what compiled code was not written for."""
        conv = affine.op
        if not isinstance(conv, Conv) or len(conv.stride) != 2 or conv.groups > 1 or max(conv.dilation) > 1:
            return None
        weight, offset = value(conv.weight), param_value(conv.bias)
        if recorded(weight, offset):
            return None
        whole = None if offset is None else offset.contiguous()  # a parameter may be a part of another
        first = [before for before, _ in conv.padding]
        return cls(weight, whole, conv.stride, first, affine.operands[0].shape[1:])

    @property
    def sparse(self) -> bool:
        """Whether most of what comes of rows is zero, and that is much."""
        single = self.weight.shape[2] * self.weight.shape[3] == 1 and max(self.stride) > 1
        return single and math.prod(self.extents) * self.weight.shape[1] > SPARSE


class Turning(NamedTuple):
    """Rows whose slopes below an activation are turned over where `gains` `[rows, *shape]` are more than `least`
    `[rows]`."""

    gains: Tensor
    least: Tensor


@dataclass(frozen=True)
class Onward:
    """How rows over what a convolution, `node`, makes, or over an activation `around` it, pass to its operand `to`;
    these rows alone, where there is a `turning`."""

    node: str
    to: str
    around: bool
    through: BentAdjoint
    turning: Turning | None = None

    def before(self, form: Dense, *, spent: bool = False, twice: bool = False) -> tuple[Dense, Tensor] | None:
        """The rows there, and their constants; None where other ways are faster, or there is none. Those of a form that
        is `spent` may be written over; with `twice` the negatives of all come behind them."""
        rows = form.coefficients
        if recorded(rows):
            return None
        turning = self.turning or ()
        owner = form.owner if form.owner is None or not twice else form.owner.repeat(2)
        found = self.through(rows, owner, *turning, spent=spent, twice=twice)
        return None if found is None else (Dense(found[0], owner), found[1])


def onward(context: Context, name: str, lines: Lines | None) -> Onward | None:
    """That of a convolution, or of the `lines` around one; None for another node, and where other ways are faster."""
    before, met = name, None
    if lines is not None:
        if type(lines) is not Lines or lines.slope.ndim < 3:
            return None
        (before,) = context.graph[name].inputs
        if len(context.graph.users(before)) > 1:
            return None  # rows of its other readers join these
    affine = context.relaxed.get(before)
    if not isinstance(affine, Affine) or before in context.shortcuts:
        return None
    filter_ = Filter.of(affine)
    if filter_ is None or filter_.sparse:
        return None
    if lines is not None:
        parts = (lines.slope, lines.rise, lines.base, lines.top)
        if recorded(*parts):
            return None
        slope, *rest = (None if part is None else _examples(part) for part in parts)
        assert slope is not None
        met = Met(slope, *rest)
    node = context.graph[before]
    moves = filter_.stride, filter_.first, filter_.extents
    through = BentAdjoint.of(met, filter_.weight, filter_.offset, *moves, node.type.shape[1:])
    return None if through is None else Onward(before, node.inputs[0], lines is not None, through)


def _examples(part: Tensor) -> Tensor:
    """`[examples, height, width, channels]`, of one example too."""
    planes = part if part.ndim == 4 else part.unsqueeze(0)
    return planes.permute(0, 2, 3, 1)

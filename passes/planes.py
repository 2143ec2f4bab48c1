"""Values between two affine functions of the network inputs, and how operators take them on: the rules of `forward`.

For planes `L <= v <= U` of the operands, functions of the inputs x, a rule gives planes of the result. For an affine
map, with the centre `M = (L + U) / 2` and the half width `D = (U - L) / 2` (functions of x; as in paper 4, eq. 6),

    W M + b - |W| D  <=  W v + b  <=  W M + b + |W| D

and for lines `p v + q <= f(v) <= r v + s` around a nonlinear function, from the table of `relaxations`, with
`p+ = max(p, 0)` and `p- = min(p, 0)`,

    p+ L + p- U + q  <=  f(v)  <=  r+ U + r- L + s

and likewise, term by term, for planes over two values. Whatever has none lies between the ends of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from irverify.ir.graph import Node
from irverify.ir.ops import LinearOp, Operator, Spec
from irverify.ir.ops.conv import pad_spatial
from irverify.passes.interval import spec_rows
from irverify.passes.lines import Between, Choice, Relaxation
from irverify.passes.maxima import Selected
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS
from irverify.passes.rules import RuleTable
from irverify.regions import Region
from irverify.regions.base import rowwise


@dataclass(frozen=True)
class Planes:
    """Two affine functions of the inputs, below and above a value: `sides` `[2, batch, columns, *shape]` has the
    coefficient of every input element and then the constant. The first axis is 1 where the value is the function, the
    batch 1 where all examples share it."""

    sides: Tensor

    @property
    def exact(self) -> bool:
        return self.sides.shape[0] == 1

    @property
    def lower(self) -> Tensor:
        return self.sides[0]

    @property
    def upper(self) -> Tensor:
        return self.sides[-1]

    def lines(self, slopes: Tensor, intercepts: Tensor | None = None) -> Planes:
        """The planes of what lies between two lines over v, for v between these: slopes and intercepts of the line
        below and of the line above, `[2, batch, *shape]` each."""
        steepness = slopes.unsqueeze(2)
        if self.exact:
            sides = steepness * self.sides
        else:
            sides = steepness.clamp(min=0) * self.sides + steepness.clamp(max=0) * self.sides.flip(0)
        return Planes(sides if intercepts is None else _shift(sides, intercepts))


def _shift(sides: Tensor, constants: Tensor) -> Tensor:
    """Adds to the constants of `sides`, which nobody else holds, in place."""
    sides[:, :, -1] += constants
    return sides


class Range:
    """The inputs x, as columns, and the least and greatest values of planes over their regions."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = regions
        self.sizes = [math.prod(region.shape) for region in regions]
        self.columns = sum(self.sizes) + 1
        self._box: tuple[Tensor, Tensor] | None = None
        if all(region.is_box for region in regions):
            lower, upper = (
                torch.cat([rowwise(side).unsqueeze(1) for side in sides], dim=2)
                for sides in zip(*(region.box() for region in regions), strict=True)
            )
            # The column of constants counts once at the centre, and does not vary.
            self._box = pad((lower + upper) / 2, (0, 1), value=1.0), pad((upper - lower) / 2, (0, 1))

    def identity(self, index: int) -> Planes:
        """The planes of input `index` itself."""
        region, size, start = self.regions[index], self.sizes[index], sum(self.sizes[:index])
        sides = torch.zeros(1, 1, self.columns, size, dtype=region.dtype, device=region.center.device)
        sides[0, 0, start : start + size] = torch.eye(size, dtype=region.dtype, device=sides.device)
        return Planes(sides.reshape(1, 1, self.columns, *region.shape))

    def of(self, planes: Planes) -> tuple[Tensor, Tensor]:
        """A lower bound of the plane below and an upper bound of the plane above, `[batch, *shape]` each; for boxes,
        with centre c and radius r, `a . c + b -+ |a| . r`."""
        shape = planes.sides.shape[3:]
        flat = planes.sides.reshape(*planes.sides.shape[:3], math.prod(shape))
        if self._box is None:
            low = flat[0, :, -1] + self._minimum(flat[0, :, :-1])
            high = flat[-1, :, -1] - self._minimum(-flat[-1, :, :-1])
        else:
            center, radius = (side.to(flat.dtype) for side in self._box)
            middle, reach = center @ flat, radius @ flat.abs()
            low, high = middle[0] - reach[0], middle[-1] + reach[-1]
        return low.reshape(low.shape[0], *shape), high.reshape(high.shape[0], *shape)

    def _minimum(self, coefficients: Tensor) -> Tensor:
        """The minimum of linear functions `[batch, inputs, elements]` over the regions, `[batch, elements]`."""
        total = coefficients.new_zeros(())
        for region, part in zip(self.regions, coefficients.mT.split(self.sizes, dim=2), strict=True):
            rows = part.reshape(*part.shape[:2], *region.shape).to(region.dtype)
            total = total + region.lower_of(rows).to(coefficients.dtype)
        return total


@dataclass(frozen=True)
class Step:
    """One node of the walk: its own interval, those of its operands, and their planes."""

    node: Node
    interval: Interval
    intervals: Sequence[Interval]
    planes: Callable[[int], Planes]
    columns: int
    choice: Choice

    def constant(self, interval: Interval) -> Planes:
        """The planes of a value that is only known to lie in an interval."""
        ends = torch.stack(interval[:1] if interval.exact else interval)
        sides = ends.new_zeros((*ends.shape[:2], self.columns, *ends.shape[2:]))
        return Planes(_shift(sides, ends))


ForwardRule: TypeAlias = Callable[[Step], Planes]
FORWARD: RuleTable[ForwardRule] = RuleTable("forward")


@FORWARD.rule(LinearOp)
def _affine(step: Step) -> Planes:
    """Centre and half width, or both planes where no entry of the map is negative."""
    op = step.node.op
    assert isinstance(op, LinearOp)
    operands = [step.planes(index) for index in range(len(step.node.inputs))]
    count, batch = (max(part.sides.shape[axis] for part in operands) for axis in (0, 1))
    parts = [part.sides.expand(count, batch, *part.sides.shape[2:]) for part in operands]
    if count == 1 or op.nonnegative:
        sides = _mapped(op.apply, parts)
    else:
        center = _mapped(op.apply, [part.mean(0, keepdim=True) for part in parts])
        half = _mapped(op.apply_abs, [(part[1:] - part[:1]) / 2 for part in parts])
        sides = torch.cat([center - half, center + half])
    offset = op.offset(sides.ndim - 3)
    return Planes(sides if offset is None else _shift(sides.clone() if count == 1 else sides, offset))


def _mapped(apply: Callable[..., Tensor], parts: list[Tensor]) -> Tensor:
    """A linear map of values, on all columns."""
    result = apply(*(part.flatten(0, 2) for part in parts))
    return result.reshape(*parts[0].shape[:3], *result.shape[1:])


@FORWARD.rule(Spec)
def _spec(step: Step) -> Planes:
    matrix, constant = spec_rows(step.node, *step.intervals[1:])
    sides, rows = step.planes(0).sides, matrix.mT
    if sides.shape[0] == 1:
        return Planes(_shift(sides @ rows, constant))
    center, half = sides.mean(0, keepdim=True) @ rows, (sides[1:] - sides[:1]) / 2 @ rows.abs()
    return Planes(_shift(torch.cat([center - half, center + half]), constant))


@FORWARD.rule(Operator)
def _between(step: Step) -> Planes:
    """Between the lines or planes of the table of relaxations; without any, between the ends of its interval."""
    rule = RELAXATIONS.find(type(step.node.op))
    assert rule is not None  # it has one for every operator
    relaxed = rule(step.node, step.intervals, step.choice)
    if isinstance(relaxed, Relaxation):
        slopes = torch.stack([relaxed.lower_slope, relaxed.upper_slope])
        return step.planes(0).lines(slopes, torch.stack([relaxed.lower_intercept, relaxed.upper_intercept]))
    if isinstance(relaxed, Between):
        low, high = relaxed.lower, relaxed.upper
        total = step.planes(0).lines(torch.stack([low.first, high.first])).sides
        total = total + step.planes(1).lines(torch.stack([low.second, high.second])).sides
        return Planes(_shift(total, torch.stack([low.constant, high.constant])))
    if isinstance(relaxed, Selected):
        return _selected(step, relaxed)
    return step.constant(step.interval)


def _selected(step: Step, maxima: Selected) -> Planes:
    """The planes of the element with the largest lower bound; above, where another one may be larger, the interval."""
    padded = pad_spatial(step.planes(0).sides, maxima.pool.padding).flatten(4)
    batch, channels, *windows = maxima.index.shape
    index = maxima.index.flatten(2)[None, :, None].expand(padded.shape[0], -1, step.columns, -1, -1)
    padded = padded.expand(-1, batch, -1, -1, -1)
    sides = padded.gather(4, index).reshape(padded.shape[0], batch, step.columns, channels, *windows)
    ceiling = step.constant(step.interval).upper
    above = torch.where(maxima.certain.unsqueeze(1) > 0, sides[-1], ceiling)
    return Planes(torch.stack([sides[0], above]))

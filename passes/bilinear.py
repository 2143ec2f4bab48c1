"""Linear bounds of products and quotients of two values (McCormick 1976).

For x in [l, u] and y in [m, v]

    x y >= m x + l y - l m      x y >= v x + u y - u v      x y <= v x + l y - l v      x y <= m x + u y - u m

Of the two on a side, which differ by the same amount at the centre, the flatter one is taken: the one that varies less
over the box; where both vary as much, the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.passes.curves import convex
from irverify.passes.lines import Between, Choice, Enclosed, Gathered, Plane, Relaxation, Relaxed, select, sums
from irverify.passes.products import div as divided
from irverify.passes.products import matmul as multiplied
from irverify.passes.products import mul as product
from irverify.passes.propagate import Interval

Corner: TypeAlias = tuple[Tensor, Tensor]
"""A corner (y, x) of the box: the slopes of the plane that touches the product there."""


def mul(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """Element by element; the square of one value is convex: its chord and the tangent at its middle."""
    first, second = operands
    if node.inputs[0] == node.inputs[1]:
        lines = convex(lambda x: x * x, lambda x: 2 * x, first, (first.lower + first.upper) / 2)
        return lines if _finite(lines.lower_intercept, lines.upper_intercept) else Enclosed(*product(node, *operands))
    planes = Between(*mccormick(first, second))
    finite = _finite(planes.lower.constant, planes.upper.constant)
    return planes if finite else Enclosed(*product(node, *operands))


def mccormick(first: Interval, second: Interval) -> tuple[Plane, Plane]:
    """The planes below and above `x y`, the flatter ones."""
    below = _flatter(first, second, (second.lower, first.lower), (second.upper, first.upper))
    above = _flatter(first, second, (second.upper, first.lower), (second.lower, first.upper))
    return Plane(*below, -below[0] * below[1]), Plane(*above, -above[0] * above[1])


def _flatter(first: Interval, second: Interval, one: Corner, other: Corner) -> Corner:
    width, height = first.upper - first.lower, second.upper - second.lower
    chosen = _less(one[0].abs() * width + one[1].abs() * height, other[0].abs() * width + other[1].abs() * height)
    return torch.where(chosen, one[0], other[0]), torch.where(chosen, one[1], other[1])


def div(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    """`x / y` as the product of x and 1 / y, with the lines of 1 / y (convex for y > 0, concave for y < 0)."""
    first, second = operands
    middle = (second.lower + second.upper) / 2

    def slope(x: Tensor) -> Tensor:
        return -1 / (x * x)

    convexly = convex(torch.reciprocal, slope, second, middle)
    concavely = convex(lambda x: -1 / x, lambda x: -slope(x), second, middle).mirrored()
    lines = select(second.lower > 0, convexly, concavely)
    low, high = mccormick(first, Interval(1 / second.upper, 1 / second.lower))
    planes = Between(_composed(low, lines), _composed(high, Relaxation(*_swapped(lines))))
    finite = _finite(*(part for plane in (planes.lower, planes.upper) for part in (plane.second, plane.constant)))
    return planes if finite else Enclosed(*divided(node, *operands))


def _swapped(lines: Relaxation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return lines.upper_slope, lines.upper_intercept, lines.lower_slope, lines.lower_intercept


def _composed(plane: Plane, lines: Relaxation) -> Plane:
    """`plane` over x and a function of y, with the first line where it is multiplied by a positive number, else the
    second."""
    positive = plane.second >= 0
    slope = torch.where(positive, lines.lower_slope, lines.upper_slope)
    intercept = torch.where(positive, lines.lower_intercept, lines.upper_intercept)
    return Plane(plane.first, plane.second * slope, plane.constant + plane.second * intercept)


@dataclass(frozen=True)
class Products:
    """Sums of products `z_ij = sum_k x_ik y_kj`, all products of one sum with the same kind of plane: `below` and
    `above` `[batch, ..., i, j]` are 1 where it is the first of two, else 0."""

    first: Interval
    second: Interval
    below: Tensor
    above: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
        below, above = gathered(self.below), gathered(self.above)
        corners = (
            (positive * below, self.first.lower, self.second.lower),
            (positive * (1 - below), self.first.upper, self.second.upper),
            (negative * above, self.first.lower, self.second.upper),
            (negative * (1 - above), self.first.upper, self.second.lower),
        )
        left = right = total = None
        for part, x, y in corners:
            x, y = gathered(x), gathered(y)
            to_left, to_right = part @ y.mT, x.mT @ part
            constant = -sums(part * (x @ y))
            left = to_left if left is None else left + to_left
            right = to_right if right is None else right + to_right
            total = constant if total is None else total + constant
        assert left is not None and right is not None and total is not None
        rows = coefficients.shape[0]
        shapes = [(rows, *operand.lower.shape[1:]) for operand in (self.first, self.second)]
        return (left.sum_to_size(shapes[0]), right.sum_to_size(shapes[1])), total


def matmul(node: Node, operands: Sequence[Interval], choice: Choice) -> Relaxed:
    first, second = operands
    width, height = first.upper - first.lower, second.upper - second.lower

    def variation(x: Tensor, y: Tensor) -> Tensor:
        return width @ y.abs() + x.abs() @ height

    below = _less(variation(first.lower, second.lower), variation(first.upper, second.upper))
    above = _less(variation(first.lower, second.upper), variation(first.upper, second.lower))
    dtype = first.lower.dtype
    planes = Products(first, second, below.to(dtype), above.to(dtype))
    bound = first.lower.abs().amax() + first.upper.abs().amax() + second.lower.abs().amax() + second.upper.abs().amax()
    return planes if _finite(bound * bound) else Enclosed(*multiplied(node, *operands))


def _less(one: Tensor, other: Tensor) -> Tensor:
    """Whether a plane varies less than the other one, or as much: so it is above a product of positive values, and
    below one of a positive and a negative value, where rounding must not choose."""
    share: float = torch.finfo(one.dtype).eps ** 0.5
    return one <= other * (1 + share)


def _finite(*tensors: Tensor) -> bool:
    return all(math.isfinite(float(tensor.detach().abs().sum())) for tensor in tensors)

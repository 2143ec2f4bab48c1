"""Interval rules of elementwise operators that are not monotone: absolute value, powers, waves. Exact on intervals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Node
from irverify.ir.ops import Pow
from irverify.passes.propagate import Interval


def magnitude(operand: Interval) -> Interval:
    """Bounds of |x|: the distance of the interval to 0, and of its farther end."""
    nearest = torch.maximum(operand.lower, -operand.upper).clamp(min=0)
    return Interval(nearest, torch.maximum(-operand.lower, operand.upper))


def absolute(node: Node, operand: Interval) -> Interval:
    return magnitude(operand)


def square(operand: Interval) -> Interval:
    nearest, farthest = magnitude(operand)
    return Interval(nearest * nearest, farthest * farthest)


def power(node: Node, operand: Interval) -> Interval:
    """`x ** p` by parity and sign of p. Raises UnsupportedError where the interval leaves the domain."""
    op = node.op
    assert isinstance(op, Pow)
    exponent = float(op.exponent)
    whole = exponent.is_integer()
    if exponent == 0:
        one = torch.ones_like(operand.lower)
        return Interval(one, one)
    if not whole:
        _expect(node, operand.lower >= 0, "the base may be negative, where a fractional power is not defined")
    if exponent < 0:
        apart = (operand.lower > 0) | (operand.upper < 0)
        _expect(node, apart, "the base may be zero, where a negative power is not defined")
    if whole and exponent % 2 == 0:
        operand = magnitude(operand)
    # Increasing where p > 0 and, on either side of zero, decreasing where p < 0.
    first, second = op.evaluate(operand.lower), op.evaluate(operand.upper)
    return Interval(first, second) if exponent > 0 else Interval(second, first)


def _expect(node: Node, condition: Tensor, problem: str) -> None:
    if not bool(condition.all()):
        raise UnsupportedError(f"{problem}", where=str(node), hint="make the region smaller")


def sine(node: Node, operand: Interval) -> Interval:
    return _wave(node, operand, peak=math.pi / 2)


def cosine(node: Node, operand: Interval) -> Interval:
    return _wave(node, operand, peak=0.0)


def _wave(node: Node, operand: Interval, peak: float) -> Interval:
    """A wave of period 2 pi between -1 and 1 with a maximum at `peak`: 1 where the interval holds a maximum, -1 where
    it holds a minimum, else the values at its ends."""
    first, second = node.op.evaluate(operand.lower), node.op.evaluate(operand.upper)
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    upper = torch.where(_holds(operand, peak), 1.0, upper)
    return Interval(torch.where(_holds(operand, peak + math.pi), -1.0, lower), upper)


def _holds(operand: Interval, point: float) -> Tensor:
    """Whether the interval holds `point + 2 pi k` for some whole k, or comes so near that rounding could hide it."""
    period = 2 * math.pi
    slack = 8 * torch.finfo(operand.lower.dtype).eps * (1 + magnitude(operand).upper)
    first = torch.ceil((operand.lower - slack - point) / period)
    return first <= torch.floor((operand.upper + slack - point) / period)

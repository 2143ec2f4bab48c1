"""Directed rounding: the neighbouring float of a given type on a chosen side of a float64 tensor or a fraction.

What is handed to a bound is rounded outward, what is handed to an attack is rounded inward.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

UNIT = 2.0**-53  # unit roundoff of float64


def round_down(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest float of type `dtype` that is <= `value` (-inf below the range); differentiable in `value`."""
    return _stepped(value, dtype, -math.inf)


def round_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest float of type `dtype` that is >= `value` (inf above the range); differentiable in `value`."""
    return _stepped(value, dtype, math.inf)


def _stepped(value: Tensor, dtype: torch.dtype, toward: float) -> Tensor:
    if dtype == value.dtype:
        return value
    nearest = value.to(dtype)
    wrong = nearest > value if toward < 0 else nearest < value
    return _step(nearest, wrong, toward)


def _step(value: Tensor, where: Tensor, toward: float) -> Tensor:
    fixed = value.detach()
    neighbour = torch.nextafter(fixed, fixed.new_full((), toward))
    # Adding the distance to the neighbouring float is exact; an infinite value (an overflow) is replaced instead.
    moved = torch.where(torch.isfinite(fixed), value + (neighbour - fixed), neighbour)
    return torch.where(where, moved, value)


def difference(a: Tensor, b: Tensor, toward: float) -> Tensor:
    """a - b for float64 tensors, rounded toward -inf or +inf: Knuth's two-sum gives the error of rounding exactly."""
    rounded = a - b
    shift = rounded - a
    error = ((a - (rounded - shift)) - (b + shift)).detach()
    return _step(rounded, error < 0 if toward < 0 else error > 0, toward)


def fraction_below(value: Fraction) -> float:
    """The largest float64 that is <= `value`."""
    nearest = nearest_float(value)
    if math.isinf(nearest):
        return nearest if nearest < 0 else math.nextafter(nearest, -math.inf)
    return math.nextafter(nearest, -math.inf) if Fraction(nearest) > value else nearest


def fraction_above(value: Fraction) -> float:
    """The smallest float64 that is >= `value`."""
    return -fraction_below(-value)


def nearest_float(value: Fraction) -> float:
    """`value` rounded to the nearest float64, infinite beyond its range."""
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf

"""Estimators of a norm from random projections, and factors that make them bounds with high probability.

For a vector a and independent columns r_1 .. r_k of a random matrix the numbers `y_j = a^T r_j` are independent draws

- of `|a|_1 C` with C standard Cauchy, if the entries of r are standard Cauchy (Li, Hastie and Church 2007), or
- of `|a|_2 N` with N standard normal, if they are standard normal.

The tails follow from the moments by Chernoff's inequality, for failure probability p and t > 0:

- the geometric mean g of the |y_j|: `E |C|^s = 1 / cos(pi s / 2)`, so that `|a|_1 <= g e^t` but for p where
  `k (2/pi t atan(2 t / pi) - log(1 + (2 t / pi)^2) / 2) = log(1/p)` (there, lemma 4, with the optimal s)
- the sum q of the y_j^2: q / |a|_2^2 has a chi-squared distribution, so that `|a|_2^2 <= q / (k u)` but for p where
  `k (u - 1 - log u) / 2 = log(1/p)`, u < 1
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irverify.ir.first_order import first_order
from irverify.ir.ops.memory import descending, stored_as
from irverify.kernels.columns import middle_back

BISECTIONS = 200


def median(projected: Tensor) -> Tensor:
    """The median of `|y_j|` over axis 1, an estimate of the l1 norm (paper 5, eq. 12); for an even number of columns
    the mean of the two in the middle."""
    found: Tensor = _Median.apply(projected)  # type: ignore[no-untyped-call]
    return found


class _Median(torch.autograd.Function):
    """The median of magnitudes; its gradient goes to the entries that have the magnitudes in the middle."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        count = projected.shape[1]
        order = [axis for axis in descending(projected) if axis != 1]
        ordered = _sorted(projected.abs().permute(*order, 1))
        back = [order.index(axis) for axis in range(projected.ndim) if axis != 1]
        low, high, largest = (
            ordered[..., place].clone().permute(back) for place in ((count - 1) // 2, count // 2, count - 1)
        )
        ctx.save_for_backward(projected, low, high)
        return torch.where(largest.isnan(), largest, (low + high) / 2)  # a NaN would be sorted last

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        projected, low, high = ctx.saved_tensors
        found = middle_back(projected, low, high, stored_as(low, gradient))
        if found is not None:
            return found
        half, result = gradient.unsqueeze(1) / 2, torch.empty_like(projected)
        # Example by example on a CPU: then what it takes stays in a cache.
        step = 1 if projected.device.type == "cpu" else len(projected)
        magnitudes, times = torch.empty_like(projected[:step]), torch.empty_like(projected[:step])
        for start in range(0, len(projected), step):
            some = slice(start, start + step)
            found = result[some]
            torch.abs(projected[some], out=magnitudes)
            torch.eq(magnitudes, low[some].unsqueeze(1), out=times)
            torch.eq(magnitudes, high[some].unsqueeze(1), out=found)
            found.add_(times).mul_(half[some]).mul_(torch.sign(projected[some], out=magnitudes))
        return result


def _sorted(tensor: Tensor) -> Tensor:
    """Ascending along the last axis; on CPUs by NumPy, which is several times faster than PyTorch at many short
    rows."""
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
        return tensor.sort(dim=-1).values
    return torch.from_numpy(np.sort(tensor.contiguous().numpy(), axis=-1))


def geometric(projected: Tensor) -> Tensor:
    """The geometric mean of `|y_j|` over axis 1; times `cos(pi / 2k)^k` an unbiased estimate of the l1 norm."""
    return projected.abs().log().mean(dim=1).exp()


def root_mean_square(projected: Tensor) -> Tensor:
    """`sqrt(sum_j y_j^2 / k)` over axis 1: an estimate of the l2 norm from normal projections; its slope at 0 is 0."""
    norm: Tensor = torch.linalg.vector_norm(projected, dim=1)
    return norm / math.sqrt(projected.shape[1])


def unbiased(columns: int) -> float:
    """The factor that makes the geometric mean of `columns` >= 2 draws unbiased (Li et al. 2007)."""
    return math.cos(math.pi / (2 * columns)) ** columns


def geometric_factor(columns: int, failure: float) -> float:
    """`e^t` with `|a|_1 <= e^t g` but for the probability `failure`."""

    def rate(t: float) -> float:
        scaled = 2 * t / math.pi
        return scaled * math.atan(scaled) - math.log1p(scaled * scaled) / 2

    wanted = -math.log(failure) / columns
    high = 1.0
    while rate(high) < wanted:
        high *= 2
    return math.exp(_upper_root(rate, wanted, 0.0, high))


def normal_factor(columns: int, failure: float) -> float:
    """`1 / sqrt(u)` with `|a|_2 <= root_mean_square / sqrt(u)` but for the probability `failure`."""
    wanted = -2 * math.log(failure) / columns

    def rate(v: float) -> float:  # with u = exp(-v), v > 0
        return math.expm1(-v) + v

    return math.exp(_upper_root(rate, wanted, 0.0, wanted + 1.0) / 2)


def _upper_root(rate: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where the increasing `rate` reaches `wanted` between `low` and `high`, never less."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < wanted else (low, middle)
    return high


def cauchy(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Cauchy numbers of the type and on the device of `like`, drawn in double precision on the CPU, so that
    they do not depend on either."""
    return torch.empty(shape, dtype=torch.float64).cauchy_(generator=generator).to(like)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn likewise."""
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(like)

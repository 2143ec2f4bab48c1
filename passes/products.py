"""Interval rules of products, quotients, matrix products of two values, and softmax. Exact on the box of operands."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Node
from irverify.ir.ops import Softmax
from irverify.ir.ops.base import normalize_axis
from irverify.passes.powers import square
from irverify.passes.propagate import Interval

CHUNK = 2**22
"""How many elementary products of a matrix product are held in memory at once."""


def hull(*candidates: Tensor) -> Interval:
    """The smallest interval around some tensors of one shape."""
    lower = upper = candidates[0]
    for candidate in candidates[1:]:
        lower, upper = torch.minimum(lower, candidate), torch.maximum(upper, candidate)
    return Interval(lower, upper)


def mul(node: Node, first: Interval, second: Interval) -> Interval:
    """The extreme ones of the four products of ends; a value times itself is a square."""
    if node.inputs[0] == node.inputs[1]:
        return square(first)
    return _products(first, second)


def _products(first: Interval, second: Interval) -> Interval:
    if second.exact:
        return hull(first.lower * second.lower, first.upper * second.lower)
    if first.exact:
        return hull(first.lower * second.lower, first.lower * second.upper)
    return hull(
        first.lower * second.lower, first.lower * second.upper, first.upper * second.lower, first.upper * second.upper
    )


def div(node: Node, first: Interval, second: Interval) -> Interval:
    """The extreme ones of the four quotients of ends. Raises UnsupportedError where the divisor may be zero."""
    if not bool(((second.lower > 0) | (second.upper < 0)).all()):
        raise UnsupportedError(
            "the divisor may be zero in the region, where the network is not defined",
            where=str(node),
            hint="make the region smaller",
        )
    quotients = [top / bottom for top in first for bottom in second]
    if node.inputs[0] == node.inputs[1]:
        one = torch.ones_like(first.lower)
        return Interval(one, one)
    return hull(*quotients)


def matmul(node: Node, first: Interval, second: Interval) -> Interval:
    """Sums of exact products of intervals, in blocks of rows of the first operand.

    `x_ij y_jk` is bounded on its own for every j, which is exact as long as the operands have no value in common.
    """
    rows, inner, columns = first.lower.shape[-2], first.lower.shape[-1], second.lower.shape[-1]
    lead = max(first.lower[..., 0, 0].numel(), second.lower[..., 0, 0].numel())
    block = max(1, CHUNK // max(1, lead * inner * columns))
    right = Interval(second.lower.unsqueeze(-3), second.upper.unsqueeze(-3))
    parts = []
    for start in range(0, rows, block):
        ends = slice(start, start + block)
        left = Interval(first.lower[..., ends, :, None], first.upper[..., ends, :, None])
        entries = _products(left, right)
        parts.append(Interval(entries.lower.sum(-2), entries.upper.sum(-2)))
    return Interval(torch.cat([part.lower for part in parts], -2), torch.cat([part.upper for part in parts], -2))


def softmax(node: Node, operand: Interval) -> Interval:
    """`y_i = sigmoid(x_i - log sum_{j != i} exp x_j)`: increasing in x_i, decreasing in every other."""
    op = node.op
    assert isinstance(op, Softmax)
    axis = normalize_axis(op.axis, operand.lower.ndim - 1) + 1
    if operand.lower.shape[axis] == 1:
        one = torch.ones_like(operand.lower)
        return Interval(one, one)
    lower = (operand.lower - _others(operand.upper, axis)).sigmoid()
    return Interval(lower, (operand.upper - _others(operand.lower, axis)).sigmoid())


def _others(x: Tensor, axis: int) -> Tensor:
    """`log sum_{j != i} exp x_j` for each i along `axis` (of extent 2 or more), without cancellation."""
    nothing = torch.full_like(x.narrow(axis, 0, 1), float("-inf"))
    count = x.shape[axis]
    before = torch.cat([nothing, x.logcumsumexp(axis).narrow(axis, 0, count - 1)], axis)
    after = torch.cat([nothing, x.flip(axis).logcumsumexp(axis).narrow(axis, 0, count - 1)], axis).flip(axis)
    return torch.logaddexp(before, after)

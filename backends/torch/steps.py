"""What a program calls: steps with closed formulas as functions, and all others by the rules of the analyses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from irverify.ir.graph import Node
from irverify.ir.ops import LinearOp
from irverify.ir.types import TensorType
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS

TABLED = 32
"""Up to so many classes the differences of all pairs of rows of the last layer are computed once a step, and not for
each example."""


class ValueStep(nn.Module):
    """An operator on concrete tensors."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def forward(self, parameters: Sequence[Tensor], *operands: Tensor) -> Tensor:
        return bound(self._node, parameters).op.evaluate(*operands)


class AdjointStep(nn.Module):
    """Rows taken through the adjoint of a linear operator of one operand; constants are left to others."""

    def __init__(self, node: Node, operand: TensorType) -> None:
        super().__init__()
        self._node, self._operand = node, operand

    def forward(self, parameters: Sequence[Tensor], rows: Tensor) -> Tensor:
        op = bound(self._node, parameters).op
        assert isinstance(op, LinearOp)
        return op.adjoint(rows, (self._operand,))[0]


class IntervalStep(nn.Module):
    """The rule of interval bound propagation for a node."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._rule = IBP.find(type(node.op))

    def forward(self, parameters: Sequence[Tensor], *ends: Tensor) -> tuple[Tensor, Tensor]:
        """`ends` are the lower and upper end of each operand in turn."""
        assert self._rule is not None  # checked for the whole graph before
        operands = map(Interval, ends[::2], ends[1::2])
        lower, upper = self._rule(bound(self._node, parameters), *operands)
        return lower, upper


class RowStep(nn.Module):
    """Rows `[rows, *shape]` over a node's value, taken to its operands by its relaxation."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._rule = RELAXATIONS.find(type(node.op))

    def forward(self, parameters: Sequence[Tensor], rows: Tensor, *ends: Tensor) -> tuple[Tensor, ...]:
        """The rows over each operand, and then the constants `[rows]`."""
        assert self._rule is not None
        operands = [Interval(lower, upper) for lower, upper in zip(ends[::2], ends[1::2], strict=True)]
        count = rows.shape[0] // operands[0].lower.shape[0]
        relaxed = self._rule(bound(self._node, parameters), operands, "adaptive")
        parts, constant = relaxed.through(rows, lambda tensor: tensor.repeat_interleave(count, 0))
        missing = (rows.new_zeros(rows.shape[0], *operand.lower.shape[1:]) for operand in operands[len(parts) :])
        return (*parts, *missing, constant)


def bound(node: Node, parameters: Sequence[Tensor]) -> Node:
    """The node with the parameters of this step."""
    op = node.op.replace(**dict(zip(node.op.parameters(), parameters, strict=True)))
    return Node(node.name, op, node.inputs, node.type, node.source)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over a batch `[batch, channels, ...]`."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return mean, variance


def channel_scale(variance: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    factor = (variance + epsilon).rsqrt()
    return factor if weight is None else factor * weight


def channel_shift(mean: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)


def by_channel(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """`scale x + shift` for each channel, axis 1."""
    shape = (-1, *(1,) * (x.ndim - 2))
    scaled = x * scale.reshape(shape)
    return scaled if shift is None else scaled + shift.reshape(shape)


def by_row(weight: Tensor, scale: Tensor) -> Tensor:
    """The weight `[out, ...]` of a layer whose results are scaled by channel."""
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def expanded(constant: Tensor, like: Tensor) -> Tensor:
    """A constant for every example of a batch."""
    return constant.unsqueeze(0).expand(like.shape[0], *constant.shape)


def weighed(lower: Tensor, upper: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre and radius, the weight and its magnitude; or twice the first two and half the others, by what is less to
    halve."""
    center, radius = lower + upper, upper - lower
    if weight.numel() > 2 * center.numel():
        return center * 0.5, radius * 0.5, weight, weight.abs()
    half = weight * 0.5
    return center, radius, half, half.abs()


def pair_rows(weight: Tensor) -> Tensor:
    """`W_i - W_j` for all pairs of classes, `[classes, classes, in]`."""
    return weight.unsqueeze(1) - weight


def spread_of_pairs(radius: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`|W_y - W_j| r`, `[batch, classes]` (paper 4, eq. 9)."""
    classes = weight.shape[0]
    if classes <= TABLED:
        table = pair_rows(weight).abs()
        every = torch.nn.functional.linear(radius, table.reshape(classes * classes, -1))
        place = labels.reshape(-1, 1, 1).expand(-1, 1, classes)
        return every.reshape(-1, classes, classes).gather(1, place).squeeze(1)
    rows = (weight.index_select(0, labels).unsqueeze(1) - weight).abs()
    return torch.matmul(rows, radius.unsqueeze(2)).squeeze(2)


def difference(scores: Tensor, labels: Tensor) -> Tensor:
    """`s_y - s_j`, `[batch, classes]`."""
    return scores.gather(1, labels.unsqueeze(1)) - scores


def spread_of_outputs(radius: Tensor, labels: Tensor) -> Tensor:
    """`r_y + r_j`, and 0 at j = y, `[batch, classes]`: margins of outputs that are bounded one by one."""
    return (radius.gather(1, labels.unsqueeze(1)) + radius).scatter(1, labels.unsqueeze(1), 0.0)


def others(labels: Tensor, classes: int) -> Tensor:
    """The classes that are not the label, `[batch, classes - 1]`."""
    every = torch.arange(classes - 1, device=labels.device)
    return every + (every >= labels.unsqueeze(1))


def margin_rows(weight: Tensor | None, labels: Tensor, rest: Tensor, like: Tensor) -> Tensor:
    """The rows `W_y - W_j` (`e_y - e_j` without a last layer) for each other class j, `[batch, classes - 1, in]`."""
    if weight is None:
        weight = torch.eye(rest.shape[1] + 1, dtype=like.dtype, device=like.device)
    place = labels.unsqueeze(1).expand_as(rest)
    if weight.shape[0] <= TABLED:
        return pair_rows(weight)[place, rest]
    return weight[place] - weight[rest]


def margin_constants(bias: Tensor, labels: Tensor, rest: Tensor) -> Tensor:
    """`b_y - b_j` for each other class j, `[batch, classes - 1]`."""
    return bias.index_select(0, labels).unsqueeze(1) - bias[rest]


def placed(margins: Tensor, rest: Tensor) -> Tensor:
    """Margins `[batch, classes - 1]` of the other classes as `[batch, classes]`, 0 at the label."""
    return margins.new_zeros(rest.shape[0], rest.shape[1] + 1).scatter(1, rest, margins)


def larger(found: Tensor, other: Tensor) -> Tensor:
    """The larger one; NaN in `found`, from an overflow, says nothing."""
    return torch.where(found > other, found, other)


def dot_rows(rows: Tensor, vector: Tensor) -> Tensor:
    """Rows `[batch * count, *shape]` times a value `[batch, *shape]` of each example, `[batch * count]`."""
    apart = rows.reshape(vector.shape[0], -1, vector[0].numel())
    return torch.matmul(apart, vector.reshape(vector.shape[0], -1, 1)).flatten()


def channel_rows(rows: Tensor, bias: Tensor) -> Tensor:
    """Rows `[rows, channels, ...]` times a number for each channel, `[rows]`."""
    return (rows.flatten(2).sum(2) if rows.ndim > 2 else rows) @ bias

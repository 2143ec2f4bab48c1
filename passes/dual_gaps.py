"""How far the bounds of rows lie from their value at the centre: the part of the objective that depends on |nu|.

By eq. 7 of paper 5 with the layers of `irverify.passes.dual_layers`, the bounds of a row are

    center - down  and  center + up,     down = up = sum_i radius_i^T |nu_i|                       (eq. 7, 9, 10)

over the activations i and, for boxes, the inputs with their radii. `center` is the value at the centre of the region of
the network in which every activation is its middle line, one evaluation for all rows (`irverify.passes.dual_centers`):
nu has to be found for the sum alone.

Rows come in groups: those of a group share slopes and radii, which are never repeated for each row. Gradients are
written by hand, for each of the few passes over all rows counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from irverify.ir.first_order import first_order
from irverify.ir.graph import Node
from irverify.ir.ops import Operand
from irverify.ir.ops.memory import is_last, settled
from irverify.passes.dual_network import ROWS, DualNetwork

Reach: TypeAlias = Callable[[str, Tensor], tuple[Tensor, Tensor]]
"""`reach(name, nu)`: what an input adds to down and up `[groups, each]`, for nu `[groups or 1, each, *shape]`."""


@dataclass(frozen=True)
class Rows:
    """Rows `[1, each, *shape]` that all groups share, or `[groups, each, *shape]`."""

    tensor: Tensor

    def through(self, node: Node, others: Mapping[str, Rows]) -> Rows:
        """The rows that an operator of a dual network makes of these and `others`, its operands in order."""
        parts = [others[name].tensor for name in node.inputs]
        groups = max(part.shape[0] for part in parts)
        each = self.tensor.shape[1]
        flat = [part.expand(groups, each, *part.shape[2:]).flatten(0, 1) for part in parts]
        found = settled(node.op.evaluate(*flat)) if self.tensor.requires_grad else node.op.evaluate(*flat)
        return Rows(found.unflatten(0, (groups, each)))


def reaches(
    network: DualNetwork, rows: Tensor, operands: Mapping[str, Tensor], reach: Reach, groups: int
) -> tuple[Tensor, Tensor]:
    """`down` and `up` `[groups, each]` of rows c `[groups or 1, each, *shape]` over the target of a dual network.

    `operands` has the slopes and radii `[groups, *shape]` of the activations by label; `reach` knows the inputs.
    """
    found: dict[str, Rows] = {ROWS: Rows(rows)}
    gap = rows.new_zeros(groups, rows.shape[1])
    for node in network.path:
        layer = network.layers.get(node.name)
        if layer is not None:
            slope, radius = operands[f"{layer}.slope"], operands[f"{layer}.radius"]
            passed, own = folded(found[node.inputs[0]].tensor, slope, radius)
            found[node.name] = Rows(passed)
            gap = gap + own
        elif isinstance(node.op, Operand):
            if node.name in operands:
                found[node.name] = Rows(operands[node.name].unsqueeze(1))
        else:
            found[node.name] = found[node.inputs[0]].through(node, found)
    down = up = gap
    for name, value in network.reached.items():
        first, second = reach(name, found[value].tensor)
        same = first is second and down is up
        down = down + first
        up = down if same else up + second
    return down, up


def folded(rows: Tensor, slope: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """`D nu` and `radius^T |nu|` (paper 5, cor. 2): `[groups, each, *shape]` and `[groups, each]` for rows
    `[groups or 1, each, *shape]`, slope and radius `[groups, *shape]`."""
    order = _Order(rows)
    passed, gap = _Folded.apply(order.flat(rows), order.flat(slope), order.flat(radius))  # type: ignore[no-untyped-call]
    return order.shaped(passed), gap


def weighed(rows: Tensor, radius: Tensor) -> Tensor:
    """`radius^T |nu|`, `[groups, each]`."""
    order = _Order(rows)
    found: Tensor = _Weighed.apply(order.flat(rows), order.flat(radius))  # type: ignore[no-untyped-call]
    return found


def inner(rows: Tensor, vectors: Tensor) -> Tensor:
    """`nu^T x`, `[groups, each]`, for vectors `[groups, *shape]`."""
    order = _Order(rows)
    return _products(order.flat(rows), order.flat(vectors))


class _Order:
    """Values of the shape that rows `[groups, each, *shape]` go over as flat ones, in the order in which the rows are
    stored."""

    def __init__(self, rows: Tensor) -> None:
        self._shape = rows.shape[2:]
        self._last = rows.ndim == 5 and is_last(rows[0])

    def flat(self, values: Tensor) -> Tensor:
        """`[..., *shape]` as `[..., size]`."""
        lead = values.shape[: values.ndim - len(self._shape)]
        return (values.movedim(-3, -1) if self._last else values).reshape(*lead, math.prod(self._shape))

    def shaped(self, flat: Tensor) -> Tensor:
        """What `flat` was made of; a view."""
        if not self._last:
            return flat.reshape(*flat.shape[:-1], *self._shape)
        channels, *plane = self._shape
        return flat.reshape(*flat.shape[:-1], *plane, channels).movedim(-1, -3)


class _Weighed(torch.autograd.Function):
    """`radius^T |nu|` of rows `[groups or 1, each, n]` and radii `[groups, n]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, radius: Tensor) -> Tensor:
        ctx.save_for_backward(rows, radius)
        return _products(rows.abs(), radius)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, radius = ctx.saved_tensors
        passed = _signed(rows, radius, gradient) if ctx.needs_input_grad[0] else None
        return passed, _sums(gradient, rows.abs()) if ctx.needs_input_grad[1] else None


class _Folded(torch.autograd.Function):
    """`D nu` and `radius^T |nu|` of rows `[groups or 1, each, n]`, slopes and radii `[groups, n]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slope: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows, slope, radius)
        return rows * slope.unsqueeze(1), _products(rows.abs(), radius)

    @staticmethod
    @first_order
    def backward(ctx: Any, passed: Tensor, gap: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, slope, radius = ctx.saved_tensors
        back = of_slope = of_radius = None
        if ctx.needs_input_grad[0]:
            back = _signed(rows, radius, gap)
            if rows.shape[0] == passed.shape[0]:
                back.addcmul_(passed, slope.unsqueeze(1))
            else:
                back += (passed * slope.unsqueeze(1)).sum(0)
        if ctx.needs_input_grad[1]:
            of_slope = (passed * rows).sum(1)
        if ctx.needs_input_grad[2]:
            of_radius = _sums(gap, rows.abs())
        return back, of_slope, of_radius


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """The products of each group's rows `[groups or 1, each, n]` with its column `[groups, n]`, `[groups, each]`."""
    if rows.shape[0] != columns.shape[0]:
        return columns @ rows[0].mT
    if rows.shape[1] == 1:
        return (rows[:, 0] * columns).sum(1, keepdim=True)
    return torch.bmm(rows, columns.unsqueeze(2)).squeeze(2)


def _sums(weights: Tensor, rows: Tensor) -> Tensor:
    """The sum of each group's rows `[groups or 1, each, n]` with weights `[groups, each]`, `[groups, n]`."""
    if rows.shape[0] != weights.shape[0]:
        return weights @ rows[0]
    if rows.shape[1] == 1:
        return weights * rows[:, 0]
    return torch.bmm(weights.unsqueeze(1), rows).squeeze(1)


def _signed(rows: Tensor, radius: Tensor, weights: Tensor) -> Tensor:
    """The gradient of `weights^T (radius^T |nu|)` in the rows, of their shape."""
    signs = rows.sign()
    if rows.shape[0] != radius.shape[0]:
        return signs.mul_(weights.mT @ radius)
    return signs.mul_(radius.unsqueeze(1)).mul_(weights.unsqueeze(2))

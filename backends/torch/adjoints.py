"""The affine layers before a ReLU as backward rows go through them, with what their gradients need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from irverify.backends.torch.layout import Layout
from irverify.ir.ops import Conv
from irverify.ir.ops.conv import CONV
from irverify.ir.ops.memory import channels_last
from irverify.ir.ops.moves import Moves
from irverify.ir.ops.scatter import WEIGHT_GRADIENT, Steps, scatter


class Layer(Protocol):
    """The linear part `W` of a layer: rows `a` `[rows, *result]` become rows `a W` `[rows, *operand]`."""

    def back(self, rows: Tensor, weight: Tensor) -> Tensor:
        """`a W`."""

    def ahead(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """The gradient of `<g, a W>` in a: `g W^T`."""

    def in_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """The gradient of `<g, a W>` in the weight."""


@dataclass(frozen=True)
class Product:
    """A linear layer that reads flattened values of this shape; the weight's columns are ordered as in their layout."""

    operand: tuple[int, ...]

    def back(self, rows: Tensor, weight: Tensor) -> Tensor:
        return Layout.of(self.operand, weight).shaped(rows @ weight)

    def ahead(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return Layout.of(self.operand, weight).flat(gradient) @ weight.t()

    def in_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        return rows.t() @ Layout.of(self.operand, weight).flat(gradient)


@dataclass(frozen=True)
class Convolution:
    """A convolution over one to three spatial axes. The operator gives everything but the weight."""

    op: Conv
    operand: tuple[int, ...]

    def back(self, rows: Tensor, weight: Tensor) -> Tensor:
        op = self.op
        first = tuple(before for before, _ in op.padding)
        return scatter(rows, weight, Steps(op.stride, op.dilation, op.groups), first, self.operand[1:])

    def ahead(self, gradient: Tensor, weight: Tensor) -> Tensor:
        moves = self._moves(weight)
        convolve = CONV[weight.ndim - 2]
        operand, weight = moves.operand(gradient), channels_last(weight)
        return convolve(operand, weight, None, moves.stride, moves.padding, moves.dilation, self.op.groups)

    def in_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        moves = self._moves(weight)
        function = WEIGHT_GRADIENT[weight.ndim - 2]
        return function(
            moves.operand(gradient), weight.shape, rows, moves.stride, moves.padding, moves.dilation, self.op.groups
        )

    def _moves(self, weight: Tensor) -> Moves:
        op = self.op
        return Moves.of(weight.shape[2:], op.stride, op.padding, op.dilation)

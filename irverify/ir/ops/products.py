"""Operators of two values that are not linear in both, and softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.errors import ShapeError
from irverify.ir.ops.base import Operator, broadcast, expect_shape, normalize_axis
from irverify.ir.types import TensorType


class Binary(Operator):
    """Two values of one type, element by element."""

    arity = 2

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(inputs[0] == inputs[1], "operands of one type", f"{inputs[0]} and {inputs[1]}")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Mul(Binary):
    """`x_1 * x_2`."""

    name = "mul"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]


@dataclass(frozen=True, eq=False)
class Div(Binary):
    """`x_1 / x_2`."""

    name = "div"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0] / inputs[1]


@dataclass(frozen=True, eq=False)
class Maximum(Binary):
    """`max(x_1, x_2)`."""

    name = "maximum"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.maximum(inputs[0], inputs[1])


@dataclass(frozen=True, eq=False)
class Minimum(Binary):
    """`min(x_1, x_2)`."""

    name = "minimum"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.minimum(inputs[0], inputs[1])


@dataclass(frozen=True, eq=False)
class MatMul(Operator):
    """`x_1 x_2` on the last two axes of two values of one rank >= 2; leading axes agree or are 1."""

    name = "matmul"
    arity = 2

    def infer(self, *inputs: TensorType) -> TensorType:
        first, second = inputs
        fits = first.rank == second.rank >= 2 and first.dtype == second.dtype
        expect_shape(fits, "two values of one element type and one rank >= 2", f"{first} and {second}")
        expect_shape(first.shape[-1] == second.shape[-2], "inner extents that agree", f"{first} and {second}")
        lead = broadcast(first.shape[:-2], second.shape[:-2])
        if lead is None:
            raise ShapeError(f"expected leading axes that broadcast, got {first} and {second}")
        return first.with_shape((*lead, first.shape[-2], second.shape[-1]))

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.matmul(inputs[0], inputs[1])


@dataclass(frozen=True, eq=False)
class Softmax(Operator):
    """`exp(x_i) / sum_j exp(x_j)` along `axis`."""

    name = "softmax"
    axis: int = -1

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        normalize_axis(self.axis, operand.rank)
        return operand

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].softmax(normalize_axis(self.axis, inputs[0].ndim - 1) + 1)

"""The specification as the last node of a graph: rows of linear functions of a value, given at run time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops.base import Operator, expect_shape, param_value
from irverify.ir.params import Param, value
from irverify.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Spec(Operator):
    """`m = C y + d` with y `[out]`, runtime operands C `[spec, out]` and d `[spec]`, different for each example.

    With `weight` `[out, in]` and `bias` `[out]` the network's last layer is part of the specification:
    y = weight x + bias and `m = (C weight) x + (C bias + d)`, which any analysis bounds at least as tightly as the two
    steps one after the other (paper 4, eq. 9: elision of the last layer).
    """

    name = "spec"
    arity = 3
    weight: Param | None = None
    bias: Param | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        operand, rows, offset = inputs
        expect_shape(operand.rank == 1 and rows.rank == 2, "a vector and rows [spec, out]", f"{operand}, {rows}")
        outputs = operand.shape[0]
        if self.weight is not None:
            weight = value(self.weight)
            expect_shape(weight.shape[1] == outputs, f"an elided layer with {outputs} inputs", tuple(weight.shape))
            outputs = int(weight.shape[0])
        expect_shape(rows.shape[1] == outputs, f"rows over {outputs} outputs", rows)
        expect_shape(offset.shape == (rows.shape[0],), f"an offset for each of {rows.shape[0]} rows", offset)
        return operand.with_shape((rows.shape[0],))

    def affine(self, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix `[batch, spec, in]` and constant `[batch, spec]` of m as a function of the input value."""
        bias = param_value(self.bias)
        if bias is not None:
            offset = offset + rows @ bias
        weight = param_value(self.weight)
        return (rows if weight is None else rows @ weight), offset

    def evaluate(self, *inputs: Tensor) -> Tensor:
        matrix, offset = self.affine(inputs[1], inputs[2])
        return torch.einsum("bsi,bi->bs", matrix, inputs[0]) + offset

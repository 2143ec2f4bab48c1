"""The operators of the IR, and the table from their words in the text form to their classes."""

from __future__ import annotations

from irverify.ir.ops.base import Elementwise, LinearOp, Operator, Pieces
from irverify.ir.ops.conv import Conv, ConvTranspose
from irverify.ir.ops.elementwise import (
    Abs,
    Cast,
    Clip,
    Cos,
    Exp,
    Identity,
    LeakyRelu,
    Pow,
    Relu,
    Sigmoid,
    Sin,
    Step,
    Tanh,
    Trunc,
)
from irverify.ir.ops.inputs import Constant, Input, Operand
from irverify.ir.ops.linear import Add, BatchNorm, ConstMatMul, Linear, Neg, ScaleShift, Sub
from irverify.ir.ops.pooling import AveragePool, MaxPool, Windows
from irverify.ir.ops.products import Binary, Div, MatMul, Maximum, Minimum, Mul, Softmax
from irverify.ir.ops.shape import Concat, Expand, Gather, Pad, ReduceMean, ReduceSum, Reshape, Slice, Transpose
from irverify.ir.ops.spec import Spec

OPERATORS: dict[str, type[Operator]] = {
    operator.name: operator
    for operator in (
        Input, Operand, Constant,
        Linear, ConstMatMul, ScaleShift, BatchNorm, Add, Sub, Neg, Conv, ConvTranspose, AveragePool,
        Relu, LeakyRelu, Clip, Abs, Sigmoid, Tanh, Exp, Pow, Sin, Cos, Step, Trunc, Identity, Cast,
        MaxPool, Mul, Div, Maximum, Minimum, MatMul, Softmax,
        Reshape, Transpose, Expand, Slice, Concat, Gather, Pad, ReduceSum, ReduceMean,
        Spec,
    )
}  # fmt: skip
"""Word of the text form -> operator class."""

__all__ = [
    "OPERATORS", "Abs", "Add", "AveragePool", "BatchNorm", "Binary", "Cast", "Clip", "Concat", "ConstMatMul",
    "Constant", "Conv", "ConvTranspose", "Cos", "Div", "Elementwise", "Exp", "Expand", "Gather", "Identity", "Input",
    "LeakyRelu", "Linear", "LinearOp", "MatMul", "MaxPool", "Maximum", "Minimum", "Mul", "Neg", "Operand", "Operator",
    "Pad", "Pieces", "Pow", "ReduceMean", "ReduceSum", "Relu", "Reshape", "ScaleShift", "Sigmoid", "Sin", "Slice",
    "Softmax", "Spec", "Step", "Sub", "Tanh", "Transpose", "Trunc", "Windows",
]  # fmt: skip

"""A small network for each operator, and a region on which it is defined."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from irverify.ir import ops
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.types import TensorType
from irverify.regions import Box

Make = Callable[[GraphBuilder, str], str]
SHAPE = (2, 4, 4)


def double(*shape: int) -> Tensor:
    """Numbers of both signs that depend on nothing but the shape."""
    return torch.sin(torch.arange(1.0, 1.0 + torch.Size(shape).numel(), dtype=torch.float64)).reshape(shape)


def unary(op: ops.Operator) -> Make:
    return lambda builder, x: builder.add(op, x)


def binary(op: ops.Operator) -> Make:
    """Of two values that both depend on the input, the second one positive."""
    return lambda builder, x: builder.add(
        op, builder.add(ops.ScaleShift(double(2, 1, 1)), x), builder.add(ops.ScaleShift(None, double(2, 1, 1) + 2), x)
    )


def pooled(op: type[ops.MaxPool]) -> ops.MaxPool:
    return op((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))


def with_rank(rank: int, op: ops.Operator) -> Make:
    """On the input as a vector or a matrix."""
    shape = {1: (32,), 2: (4, 8)}[rank]
    return lambda builder, x: builder.add(op, builder.add(ops.Reshape(shape), x))


def matmul(builder: GraphBuilder, x: str) -> str:
    first = builder.add(ops.Reshape((4, 8)), x)
    return builder.add(ops.MatMul(), first, builder.add(ops.Transpose((1, 0)), first))


def constant(builder: GraphBuilder, x: str) -> str:
    return builder.add(ops.Add(), x, builder.add(ops.Constant(double(*SHAPE))))


CASES: dict[str, Make] = {
    "input": unary(ops.Relu()),
    "constant": constant,
    "linear": with_rank(1, ops.Linear(double(3, 32), double(3))),
    "const_matmul": with_rank(2, ops.ConstMatMul(double(8, 3))),
    "scale_shift": unary(ops.ScaleShift(double(2, 1, 1), double(2, 1, 1))),
    "batch_norm": unary(ops.BatchNorm(double(2), double(2).abs() + 1, double(2), double(2))),
    "add": binary(ops.Add()),
    "sub": binary(ops.Sub()),
    "neg": unary(ops.Neg()),
    "conv": unary(ops.Conv(double(3, 2, 3, 3), double(3), (1, 1), ((1, 1), (1, 1)))),
    "conv_transpose": unary(ops.ConvTranspose(double(2, 3, 2, 2), double(3), (2, 2))),
    "average_pool": unary(ops.AveragePool((2, 2), (2, 2), ((0, 0), (0, 0)), ((0, 0), (0, 0)), (1, 1))),
    "relu": unary(ops.Relu()),
    "leaky_relu": unary(ops.LeakyRelu(0.1)),
    "clip": unary(ops.Clip(-0.5, 0.5)),
    "abs": unary(ops.Abs()),
    "sigmoid": unary(ops.Sigmoid()),
    "tanh": unary(ops.Tanh()),
    "exp": unary(ops.Exp()),
    "pow": unary(ops.Pow(2.0)),
    "sin": unary(ops.Sin()),
    "cos": unary(ops.Cos()),
    "step": unary(ops.Step()),
    "trunc": unary(ops.Trunc()),
    "identity": unary(ops.Identity()),
    "cast": unary(ops.Cast(torch.float64)),
    "max_pool": unary(pooled(ops.MaxPool)),
    "mul": binary(ops.Mul()),
    "div": binary(ops.Div()),
    "maximum": binary(ops.Maximum()),
    "minimum": binary(ops.Minimum()),
    "matmul": matmul,
    "softmax": with_rank(1, ops.Softmax(0)),
    "reshape": unary(ops.Reshape((8, 4))),
    "transpose": unary(ops.Transpose((2, 0, 1))),
    "expand": lambda builder, x: builder.add(ops.Expand((2, 3, 4)), builder.add(ops.ReduceSum((1,), True), x)),
    "slice": unary(ops.Slice((0, 1, 0), (2, 4, 4), (1, 2, 3))),
    "concat": lambda builder, x: builder.add(ops.Concat(0), x, builder.add(ops.Neg(), x)),
    "gather": unary(ops.Gather(torch.tensor([3, 0, 0]), 1)),
    "pad": unary(ops.Pad(((0, 0), (1, 0), (0, 2)))),
    "reduce_sum": unary(ops.ReduceSum((1,))),
    "reduce_mean": unary(ops.ReduceMean((1, 2))),
    "spec": unary(ops.Relu()),  # whoever bounds the network bounds rows over it
    "operand": unary(ops.Relu()),  # and those are operands
}
"""Word of the operator -> what adds it to a graph whose input is `x`, `[2, 4, 4]`."""


def network(word: str) -> tuple[Graph, Box]:
    """The network for an operator, and a batch of two boxes around 0."""
    builder = GraphBuilder(word)
    result = CASES[word](builder, builder.input(TensorType(SHAPE, torch.float64)))
    center = 0.1 * double(2, *SHAPE)
    return builder.graph([result]), Box(center - 0.4, center + 0.4)

"""How arithmetic operators of the IR, layers and activations are said in ONNX, with the batch axis in front."""

from __future__ import annotations

import math

import torch
from onnx import helper
from torch import Tensor

from irverify.backends.onnx_writer import Writer, form, padded
from irverify.ir.graph import Node
from irverify.ir.ops import (
    Abs,
    Add,
    AveragePool,
    BatchNorm,
    Cast,
    Clip,
    Constant,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Cos,
    Div,
    Exp,
    Identity,
    LeakyRelu,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Operator,
    Pow,
    Relu,
    ScaleShift,
    Sigmoid,
    Sin,
    Softmax,
    Spec,
    Step,
    Sub,
    Tanh,
    Trunc,
)
from irverify.ir.ops.base import normalize_axis
from irverify.ir.ops.conv import Pairs
from irverify.ir.params import value
from irverify.ir.types import TensorType

WORDS: dict[type[Operator], str] = {
    Sub: "Sub", Neg: "Neg", Relu: "Relu", Abs: "Abs", Sigmoid: "Sigmoid", Tanh: "Tanh", Exp: "Exp", Sin: "Sin",
    Cos: "Cos", Identity: "Identity", Mul: "Mul", Div: "Div", Maximum: "Max", Minimum: "Min", MatMul: "MatMul",
}  # fmt: skip
"""Operators that are one ONNX operator without attributes."""


@form(*WORDS)
def _word(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    return writer.node(WORDS[type(node.op)], *inputs)


@form(Constant)
def _constant(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Constant)
    tensor = writer.tensor(value(node.op.tensor)[None])
    if writer.batch is None:
        return tensor
    count = writer.node("Slice", writer.node("Shape", writer.batch), writer.integers([0]), writer.integers([1]))
    return writer.node("Expand", tensor, writer.node("Concat", count, writer.integers(node.type.shape), axis=0))


@form(Linear)
def _linear(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Linear)
    bias = [] if node.op.bias is None else [writer.tensor(value(node.op.bias))]
    if types[0].rank == 1:
        return writer.node("Gemm", inputs[0], writer.tensor(value(node.op.weight)), *bias, transB=1)
    product = writer.node("MatMul", inputs[0], writer.tensor(value(node.op.weight).T))
    return writer.node("Add", product, bias[0]) if bias else product


@form(ConstMatMul)
def _const_matmul(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, ConstMatMul)
    weight, operand = value(node.op.weight), inputs[0]
    missing = weight.ndim - types[0].rank
    if missing > 0:
        operand = writer.reshaped(operand, (*(1,) * missing, *types[0].shape))
    factors = [writer.tensor(weight), operand]
    return writer.node("MatMul", *(factors if node.op.left else reversed(factors)))


@form(ScaleShift, BatchNorm)
def _scale_shift(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op, name = node.op, inputs[0]
    if isinstance(op, BatchNorm):
        shape = (-1, *(1,) * (node.type.rank - 1))
        scale, shift = op.scale().reshape(shape), op.shift().reshape(shape)
        return writer.node("Add", writer.node("Mul", name, writer.tensor(scale)), writer.tensor(shift))
    assert isinstance(op, ScaleShift)
    if op.scale is not None:
        name = writer.node("Mul", name, writer.tensor(value(op.scale)))
    return name if op.shift is None else writer.node("Add", name, writer.tensor(value(op.shift)))


@form(Add)
def _add(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    name = inputs[0]
    for other in inputs[1:]:
        name = writer.node("Add", name, other)
    return name


def _pads(pairs: Pairs) -> list[int]:
    return [before for before, _ in pairs] + [after for _, after in pairs]


def _windows(writer: Writer, name: str, padding: Pairs, fits: bool, fill: Tensor | None = None) -> tuple[str, Pairs]:
    """The operand and the padding that is left for the operator to do."""
    if fits and all(amount >= 0 for pair in padding for amount in pair):
        return name, padding
    return padded(writer, name, ((0, 0), *padding), fill), ((0, 0),) * len(padding)


@form(Conv)
def _conv(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op = node.op
    assert isinstance(op, Conv)
    name, padding = _windows(writer, inputs[0], op.padding, True)
    tensors = [writer.tensor(value(part)) for part in (op.weight, op.bias) if part is not None]
    return writer.node(
        "Conv", name, *tensors, kernel_shape=list(value(op.weight).shape[2:]), strides=list(op.stride),
        pads=_pads(padding), dilations=list(op.dilation), group=op.groups,
    )  # fmt: skip


@form(ConvTranspose)
def _conv_transpose(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op = node.op
    assert isinstance(op, ConvTranspose)
    full = writer.node(
        "ConvTranspose", inputs[0], writer.tensor(value(op.weight)), kernel_shape=list(value(op.weight).shape[2:]),
        strides=list(op.stride), dilations=list(op.dilation), group=op.groups,
    )  # fmt: skip
    crop = tuple(
        (-before, extra - after) for (before, after), extra in zip(op.padding, op.output_padding, strict=True)
    )
    cropped = padded(writer, full, ((0, 0), *crop))
    bias = op.offset(node.type.rank)
    return cropped if bias is None else writer.node("Add", cropped, writer.tensor(bias))


@form(AveragePool)
def _average_pool(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    """Sums over windows as a convolution with ones, times the share of each element."""
    op = node.op
    assert isinstance(op, AveragePool)
    channels, dtype = types[0].shape[0], types[0].dtype
    name, padding = _windows(writer, inputs[0], op.padding, True)
    sums = writer.node(
        "Conv", name, writer.tensor(torch.ones((channels, 1, *op.kernel), dtype=dtype)), kernel_shape=list(op.kernel),
        strides=list(op.stride), pads=_pads(padding), dilations=list(op.dilation), group=channels,
    )  # fmt: skip
    return writer.node("Div", sums, writer.tensor(op.divisors(torch.ones((1, 1, *types[0].shape[1:]), dtype=dtype))))


@form(MaxPool)
def _max_pool(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op = node.op
    assert isinstance(op, MaxPool)
    reach = zip(op.padding, op.kernel, strict=True)
    fits = all(max(pair) < kernel for pair, kernel in reach)
    fill = torch.tensor(-math.inf, dtype=types[0].dtype)
    name, padding = _windows(writer, inputs[0], op.padding, fits, fill)
    return writer.node(
        "MaxPool", name, kernel_shape=list(op.kernel), strides=list(op.stride), pads=_pads(padding),
        dilations=list(op.dilation),
    )  # fmt: skip


@form(LeakyRelu)
def _leaky_relu(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, LeakyRelu)
    slope, dtype = node.op.slope, node.type.dtype
    if dtype == torch.float64 and float(torch.tensor(slope, dtype=torch.float32)) != slope:
        return writer.node("PRelu", *inputs, writer.number(slope, dtype))  # attributes are float32
    return writer.node("LeakyRelu", *inputs, alpha=slope)


@form(Clip)
def _clip(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op, dtype = node.op, node.type.dtype
    assert isinstance(op, Clip)
    lower = writer.number(op.lower, dtype) if op.lower > -math.inf else ""
    upper = writer.number(op.upper, dtype) if op.upper < math.inf else ""
    return writer.node("Clip", inputs[0], lower, upper)


@form(Pow)
def _pow(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Pow)
    return writer.node("Pow", inputs[0], writer.number(node.op.exponent, node.type.dtype))


@form(Step)
def _step(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Step)
    word = "GreaterOrEqual" if node.op.inclusive else "Greater"
    return _cast_to(writer, writer.node(word, inputs[0], writer.number(0.0, node.type.dtype)), node.type.dtype)


@form(Trunc)
def _trunc(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    whole = writer.node("Floor", writer.node("Abs", inputs[0]))
    return writer.node("Mul", writer.node("Sign", inputs[0]), whole)


@form(Cast)
def _cast(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    return _cast_to(writer, inputs[0], node.type.dtype)


def _cast_to(writer: Writer, name: str, dtype: torch.dtype) -> str:
    kind = helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
    return writer.node("Cast", name, to=kind)


@form(Softmax)
def _softmax(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Softmax)
    return writer.node("Softmax", *inputs, axis=normalize_axis(node.op.axis, node.type.rank) + 1)


@form(Spec)
def _spec(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op, (x, rows, offset) = node.op, inputs
    assert isinstance(op, Spec)
    if op.bias is not None:
        offset = writer.node("Add", offset, writer.node("MatMul", rows, writer.tensor(value(op.bias))))
    if op.weight is not None:
        rows = writer.node("MatMul", rows, writer.tensor(value(op.weight)))
    product = writer.node("MatMul", rows, writer.node("Unsqueeze", x, writer.integers([2])))
    return writer.node("Add", writer.node("Squeeze", product, writer.integers([2])), offset)

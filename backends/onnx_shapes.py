"""How operators of the IR that move and sum elements are said in ONNX, with the batch axis in front."""

from __future__ import annotations

from irverify.backends.onnx_writer import Writer, form, padded
from irverify.ir.graph import Node
from irverify.ir.ops import (
    Concat,
    Expand,
    Gather,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    Slice,
    Transpose,
)
from irverify.ir.ops.base import normalize_axis
from irverify.ir.params import value
from irverify.ir.types import TensorType


@form(Reshape)
def _reshape(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    return writer.reshaped(inputs[0], node.type.shape)


@form(Transpose)
def _transpose(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Transpose)
    return writer.node("Transpose", *inputs, perm=[0, *(axis + 1 for axis in node.op.permutation)])


@form(Expand)
def _expand(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    missing = node.type.rank - types[0].rank
    padded = writer.reshaped(inputs[0], (*(1,) * missing, *types[0].shape))
    return writer.node("Expand", padded, writer.integers([1, *node.type.shape]))


@form(Slice)
def _slice(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op = node.op
    assert isinstance(op, Slice)
    axes = tuple(range(1, types[0].rank + 1))
    return writer.node("Slice", *inputs, *(writer.integers(part) for part in (op.starts, op.stops, axes, op.steps)))


@form(Concat)
def _concat(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Concat)
    return writer.node("Concat", *inputs, axis=normalize_axis(node.op.axis, node.type.rank) + 1)


@form(Gather)
def _gather(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Gather)
    indices = writer.tensor(value(node.op.indices).long())
    return writer.node("Gather", inputs[0], indices, axis=normalize_axis(node.op.axis, types[0].rank) + 1)


@form(Pad)
def _pad(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    assert isinstance(node.op, Pad)
    return padded(writer, inputs[0], node.op.padding) if node.op.padding else inputs[0]


@form(ReduceSum, ReduceMean)
def _reduce(writer: Writer, node: Node, types: tuple[TensorType, ...], inputs: list[str]) -> str:
    op = node.op
    assert isinstance(op, ReduceSum)
    axes = [normalize_axis(axis, types[0].rank) + 1 for axis in op.axes]
    if isinstance(op, ReduceMean):
        return writer.node("ReduceMean", *inputs, axes=axes, keepdims=int(op.keepdims))
    return writer.node("ReduceSum", *inputs, writer.integers(axes), keepdims=int(op.keepdims))

"""A graph of the IR as an ONNX model.

The batch axis is symbolic (`batch`) where the source model has one; else values have it inside the file only. Element
types are those of the graph. Every operator of the IR has a form in opset 17.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from irverify import __version__
from irverify.backends import onnx_forms, onnx_shapes
from irverify.backends.onnx_writer import FORMS, Writer
from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Input, Operand
from irverify.ir.program import write_whole

OPSET, IR_VERSION = 17, 8
REGISTERED = (onnx_forms, onnx_shapes)
"""The modules whose import fills the table of forms."""
ELEMENTS: dict[torch.dtype, int] = {
    torch.float16: TensorProto.FLOAT16,
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.uint8: TensorProto.UINT8,
    torch.int8: TensorProto.INT8,
    torch.int16: TensorProto.INT16,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}


def save_onnx(graph: Graph, path: Path, facts: Mapping[str, str] | None = None) -> None:
    """Writes a graph as an ONNX file, with `facts` as its metadata. UnsupportedError as in `to_onnx`, FileError where
    the file cannot be written."""
    model = to_onnx(graph)
    helper.set_model_props(model, dict(facts or {}))
    write_whole(path, model.SerializeToString())


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The graph as an ONNX model: inputs and outputs have its names, runtime operands are inputs too.

    Raises UnsupportedError, listing all nodes whose operators or element types have no form in ONNX.
    """
    _check(graph)
    writer = Writer()
    given = [*graph.inputs, *graph.operands]
    declared = [_declared(graph, node) for node in given]
    names: dict[str, str] = {}
    for node in graph:
        if node in given:
            unbatched = isinstance(node.op, Input) and node.op.batch_axis is None
            names[node.name] = writer.unsqueezed(node.name) if unbatched else node.name
            continue
        inputs = [names[operand] for operand in node.inputs]
        writer.batch = next((names[other.name] for other in given), None)
        names[node.name] = FORMS[type(node.op)](writer, node, graph.operand_types(node), inputs)
    outputs = [_output(graph, writer, names[name], number) for number, name in enumerate(graph.outputs)]
    body = helper.make_graph(writer.nodes, graph.name or "graph", declared, outputs, writer.tensors)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="irverify")
    model.ir_version, model.producer_version = IR_VERSION, __version__
    onnx.checker.check_model(model)
    return model


def _check(graph: Graph) -> None:
    offending = [str(node) for node in graph if type(node.op) not in (*FORMS, Input, Operand)]
    offending += [f"{node}: elements of type {node.type.dtype}" for node in graph if node.type.dtype not in ELEMENTS]
    if offending:
        hint = f"these operators have a form: {', '.join(sorted(cls.name for cls in FORMS))}"
        raise UnsupportedError(
            f"{len(offending)} of the values have no form in ONNX", items=offending,
            where=f"graph {graph.name!r}", hint=hint,
        )  # fmt: skip


def _declared(graph: Graph, node: Node) -> onnx.ValueInfoProto:
    unbatched = isinstance(node.op, Input) and node.op.batch_axis is None
    shape: list[str | int | None] = [*([] if unbatched else ["batch"]), *node.type.shape]
    return helper.make_tensor_value_info(node.name, ELEMENTS[node.type.dtype], shape)


def _output(graph: Graph, writer: Writer, name: str, number: int) -> onnx.ValueInfoProto:
    """The output under its own name, or a numbered one where that is taken by an input or another output."""
    node = graph[graph.outputs[number]]
    given = {value.name for value in (*graph.inputs, *graph.operands)}
    wanted = node.name
    if node.name in given or node.name in graph.outputs[:number]:
        wanted = f"{node.name}.{number}"
        while wanted in graph:  # as no value is called, so that no output has its name
            wanted = f"{wanted}.{number}"
    batched = graph.has_batch_axis
    if batched:
        writer.node("Identity", name, result=wanted)
    else:
        writer.node("Squeeze", name, writer.integers([0]), result=wanted)
    shape: list[str | int | None] = [*(["batch"] if batched else []), *node.type.shape]
    return helper.make_tensor_value_info(wanted, ELEMENTS[node.type.dtype], shape)

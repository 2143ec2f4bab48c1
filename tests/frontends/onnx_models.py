"""Small ONNX models for tests, and onnxruntime on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from irverify.ir.graph import Graph

Extents = Sequence[int | str | None]


def node(op: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> NodeProto:
    """A node with one result (or several, separated by blanks) and a name like `Relu_y`."""
    outputs = output.split()
    return helper.make_node(op, list(inputs), outputs, name=f"{op}_{outputs[0]}", **attributes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Extents] | Extents,
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    element: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model; inputs by name with their extents (one unnamed input is `x`), constants as initialisers."""
    named = inputs if isinstance(inputs, Mapping) else {"x": inputs}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, element, list(extents)) for name, extents in named.items()],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        [numpy_helper.from_array(numpy.asarray(array), name) for name, array in (constants or {}).items()],
    )
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 22 else 10)


def runtime(proto: ModelProto, *inputs: Tensor) -> list[Tensor]:
    """The outputs by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(numpy.array(result)) for result in session.run(None, feed)]


def evaluated(graph: Graph, *inputs: Tensor) -> list[Tensor]:
    results = graph.evaluate(*inputs)
    return list(results) if isinstance(results, tuple) else [results]


def assert_same(graph: Graph, proto: ModelProto, *inputs: Tensor) -> None:
    """The graph and onnxruntime give the same outputs."""
    ours, theirs = evaluated(graph, *inputs), runtime(proto, *inputs)
    assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in theirs]
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first.double(), second.double(), rtol=1e-5, atol=1e-5, equal_nan=True)


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights(*shape: int, seed: int = 1, dtype: Any = numpy.float32) -> Any:
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)

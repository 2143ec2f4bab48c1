"""ONNX models: files in, graphs out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnx import ModelProto
from torch import Tensor

from irverify.errors import IRVerifyError, UnsupportedError, UsageError
from irverify.frontends.differential import compare
from irverify.frontends.onnx.batch import BatchAxis, readings
from irverify.frontends.onnx.files import load_model, without_functions
from irverify.frontends.onnx.importer import Imported, Importer
from irverify.frontends.onnx.lowering import Scope
from irverify.frontends.onnx.origin import OnnxOrigin, with_outputs
from irverify.frontends.onnx.rules import supported_operators
from irverify.ir.check import check as check_graph
from irverify.ir.graph import Graph

__all__ = ["read_onnx", "supported_operators"]


def read_onnx(
    source: str | os.PathLike[str] | ModelProto,
    batch_axis: BatchAxis = "auto",
    *,
    check: bool = True,
    hidden: Sequence[str] = (),
) -> Graph:
    """The graph of an ONNX model (`.onnx`, `.onnx.gz` or a `ModelProto`), with the model itself as its `origin`.

    `batch_axis="auto"` takes axis 0 as batch where the model declares it symbolic, or fixes it to 1 and every operator
    treats it as one; otherwise, and for None, the whole tensor is one example (a symbolic axis 0 then has extent 1).
    `hidden` names values inside the model that become further outputs, behind the model's own. With `check` the graph
    is compared with onnxruntime on random inputs.

    Raises FileError for a file that cannot be read, GraphError for a broken model (NaN weights), UnsupportedError with
    all nodes that cannot be expressed, ImportMismatch where the comparison fails.
    """
    place = "ModelProto" if isinstance(source, ModelProto) else str(source)
    try:
        model, content = load_model(source)
        model = without_functions(model)
        outputs = _outputs(model, hidden)
        imported, scope = _lowered(model, batch_axis, outputs)
        content = with_outputs(model, hidden) if hidden else content
        origin = OnnxOrigin(content, Path(place).name, outputs, scope.declared if scope.batched else None)
        graph = imported.builder.graph(imported.outputs, origin)
        check_graph(graph)
        if check:
            compare(graph, origin.run, lambda inputs: _trace(model, imported, scope, inputs))
    except IRVerifyError as error:
        raise (error if error.where and error.where.startswith(place) else error.within(place)) from error
    return graph


def _outputs(model: ModelProto, hidden: Sequence[str]) -> list[str]:
    """The names of the outputs, hidden values behind the model's own."""
    names = [output.name for output in model.graph.output]
    computed = {name for node in model.graph.node for name in node.output}
    absent = [name for name in hidden if name not in computed]
    if absent:
        raise UsageError(f"expected hidden values of the model, got {', '.join(map(repr, absent))}")
    return [*names, *hidden]


def _lowered(model: ModelProto, batch_axis: BatchAxis, outputs: Sequence[str]) -> tuple[Imported, Scope]:
    """The model under the first reading of its batch axis that works, and that reading."""
    *doubtful, last = readings(model, batch_axis)
    for scope in doubtful:
        try:
            return Importer(model, scope, outputs).run(), scope
        except UnsupportedError:
            continue  # some operator does not treat axis 0 as a batch axis, or is refused by the last reading as well
    return Importer(model, last, outputs).run(), last


def _trace(
    model: ModelProto, imported: Imported, scope: Scope, inputs: Sequence[Tensor]
) -> Iterable[tuple[str, Tensor]]:
    """Every value of the model that is one of the graph's as well, by its name there, computed by onnxruntime."""
    names = [name for name in imported.places if name not in {entry.name for entry in model.graph.input}]
    if not names:  # onnxruntime takes no names for all
        return
    batch = scope.declared if scope.batched else None
    origin = OnnxOrigin(with_outputs(model, names), "the model with all its values", names, batch)
    for name, tensor in zip(names, origin.run(*inputs), strict=True):
        yield imported.places[name], tensor

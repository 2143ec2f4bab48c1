"""How the batch axis of a model may be read: from what it declares, and from what the caller says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from onnx import GraphProto, ModelProto, ValueInfoProto

from irverify.errors import UnsupportedError, UsageError
from irverify.frontends.onnx.files import MAIN_DOMAIN
from irverify.frontends.onnx.lowering import Scope
from irverify.frontends.onnx.values import Refused

BatchAxis: TypeAlias = Literal["auto", 0] | None


def true_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that are given at run time: initialisers may be listed as inputs as well."""
    stored = {tensor.name for tensor in graph.initializer}
    return [entry for entry in graph.input if entry.name not in stored]


def declared_extents(entry: ValueInfoProto) -> list[int | str]:
    """The extents that an input declares: numbers, or names (perhaps empty) where they are symbolic."""
    if not entry.type.tensor_type.HasField("shape"):
        raise Refused("expected a tensor with a declared shape, got none")
    dims = entry.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in dims]


def input_shape(entry: ValueInfoProto, scope: Scope) -> tuple[int, ...]:
    """The shape of an input in the graph. Without a batch axis a symbolic axis 0 stands for one example."""
    extents = declared_extents(entry)
    if scope.batched:
        extents = extents[1:]
    elif extents and isinstance(extents[0], str):
        extents = [1, *extents[1:]]
    symbolic = [extent for extent in extents if isinstance(extent, str)]
    if symbolic:
        raise Refused(f"expected fixed extents behind axis 0, got {declared_extents(entry)}")
    return tuple(extent for extent in extents if isinstance(extent, int))


def readings(model: ModelProto, batch_axis: BatchAxis) -> Sequence[Scope]:
    """The readings to try, in this order; the first under which the model can be lowered holds.

    `auto`: a symbolic axis 0 of all inputs is a batch axis; where all fix it to 1 it is one if every operator treats it
    so, else the whole tensor is one example, as it is where axis 0 has another extent.
    """
    if batch_axis not in ("auto", 0, None):
        raise UsageError(f'expected batch_axis "auto", 0 or None, got {batch_axis!r}')
    opset = next(entry.version for entry in model.opset_import if entry.domain in MAIN_DOMAIN)
    whole = Scope(opset, batched=False)
    shapes = [declared_extents(entry) for entry in true_inputs(model.graph)]
    if batch_axis is None:
        return [whole]
    first = {shape[0] if shape else 1 for shape in shapes}
    sizes = {extent for extent in first if isinstance(extent, int)}
    if batch_axis == 0:
        if not all(shapes) or len(sizes) > 1 or (sizes and len(first) > 1):
            raise UnsupportedError(f"expected inputs with one batch extent on axis 0, got shapes {shapes}")
        return [Scope(opset, batched=True, declared=next(iter(sizes), None))]
    if first and not sizes:
        return [Scope(opset, batched=True)]
    if len(sizes) < len(first):
        hint = "say batch_axis=0, or None to read each tensor as one example"
        raise UnsupportedError(f"expected axis 0 of all inputs symbolic, or of none, got shapes {shapes}", hint=hint)
    # A vector has no axis but one: reading that as the batch would leave nothing of an example.
    if sizes == {1} and all(len(shape) >= 2 for shape in shapes):
        return [Scope(opset, batched=True, declared=1), whole]
    return [whole]

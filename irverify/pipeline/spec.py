"""Specifications as part of a graph: rows over the outputs (and inputs), given at run time."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Concat, Operand, Reshape, Spec
from irverify.ir.types import TensorType

SpecRows: TypeAlias = tuple[Tensor, Tensor]
"""(C, d): rows `[batch, rows, out]` and their constants `[batch, rows]`; either may leave the batch axis out."""


def with_spec(graph: Graph, rows: int, *, inputs: bool = False) -> Graph:
    """The graph with the specification `m = C y + d` as its only output.

    y are the flattened outputs one after the other (with `inputs` followed by the flattened inputs, as further
    columns); C `[rows, columns]` and d `[rows]` are runtime operands, see `spec_operands`. The result has no
    `origin`: it computes something else than the source model.
    """
    builder = GraphBuilder(graph.name)
    for node in graph.nodes:
        builder.add(node.op, *node.inputs, name=node.name, source=node.source)
    parts = [*graph.outputs, *(node.name for node in graph.inputs if inputs)]
    flat = [name if builder.type(name).rank == 1 else _flattened(builder, name) for name in parts]
    y = flat[0] if len(flat) == 1 else builder.add(Concat(axis=0), *flat, name="spec.y")
    type_ = builder.type(y)
    matrix = builder.add(Operand(TensorType((rows, type_.size), type_.dtype)), name="C")
    offset = builder.add(Operand(TensorType((rows,), type_.dtype)), name="d")
    return builder.graph([builder.add(Spec(), y, matrix, offset, name="spec")])


def _flattened(builder: GraphBuilder, name: str) -> str:
    return builder.add(Reshape((builder.type(name).size,)), name, name=f"{name}.flat")


def spec_operands(graph: Graph) -> tuple[str, str]:
    """The names of the operands C and d of a graph made by `with_spec`."""
    _, matrix, offset = graph[graph.outputs[0]].inputs
    return matrix, offset

"""The intermediate representation: types, values, operators, graph, text form, checker, program file."""

from __future__ import annotations

from irverify.ir.graph import Graph, GraphBuilder, Node, Origin, convert, rewrite
from irverify.ir.types import TensorType

__all__ = ["Graph", "GraphBuilder", "Node", "Origin", "TensorType", "convert", "rewrite"]

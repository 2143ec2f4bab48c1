"""A picture of a graph: text in Graphviz' DOT language, for `dot -Tsvg`."""

from __future__ import annotations

from collections.abc import Mapping

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Constant, Elementwise, Input, LinearOp, Operand
from irverify.ir.params import value


def to_dot(graph: Graph, notes: Mapping[str, str] | None = None) -> str:
    """The graph as DOT text, inputs on top: a box for each value with its name, operator, type and parameter shapes.

    `notes` gives further lines for values by name: bounds, stability counts, whatever an analysis found. Colours tell
    the families: inputs and constants grey, linear operators blue, elementwise ones orange, others red; outputs have a
    double border.
    """
    notes = notes or {}
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        '  node [shape=box, style=filled, fontname="Helvetica"];',
        '  edge [fontname="Helvetica", fontsize=10];',
    ]
    for node in graph:
        label = "\n".join(filter(None, [*_label(node), notes.get(node.name)]))
        border = ", peripheries=2" if node.name in graph.outputs else ""
        lines.append(f"  {_quoted(node.name)} [label={_quoted(label)}, fillcolor={_colour(node)}{border}];")
    for node in graph:
        for place, operand in enumerate(node.inputs):
            which = f" [label={place}]" if len(node.inputs) > 1 else ""
            lines.append(f"  {_quoted(operand)} -> {_quoted(node.name)}{which};")
    return "\n".join([*lines, "}", ""])


def _label(node: Node) -> list[str]:
    shapes = ", ".join(f"{field} {tuple(value(tensor).shape)}" for field, tensor in node.op.parameters().items())
    return [f"%{node.name} = {node.op.name}", str(node.type), shapes, node.source or ""]


def _colour(node: Node) -> str:
    if isinstance(node.op, Input | Operand | Constant):
        return "lightgrey"
    if isinstance(node.op, LinearOp):
        return "lightblue"
    return "orange" if isinstance(node.op, Elementwise) else "lightcoral"


def _quoted(text: str) -> str:
    """A DOT string; line breaks inside it centre their line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", "\\n")
    return f'"{escaped}"'

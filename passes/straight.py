"""Rows that meet nothing but dense layers, and lines around their results, on the way to the box of an input: compiled
code takes them there in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Input, Linear, Reshape, ScaleShift
from irverify.ir.recording import recorded
from irverify.kernels import available
from irverify.kernels.layers import Layer, Start, lower_bounds
from irverify.passes.forms import Columns, Form, Patches, Units
from irverify.passes.relaxations import Affine
from irverify.passes.view import View


class Way(NamedTuple):
    """From a value to an input: dense layers, the last first, each with the node behind it that has lines, if there is
    one; the flat value that the first of them reads, which is the input or an elementwise image of it, so that its
    interval is all that it can be; that input; and all nodes on the way."""

    layers: Sequence[tuple[str | None, str]]
    end: str
    source: str
    nodes: frozenset[str]


@once_a_graph
def with_way(graph: Graph) -> frozenset[str]:
    """The values over which rows have such a way."""
    return frozenset(node.name for node in graph if way(graph, node.name) is not None)


@once_a_graph
def way(graph: Graph, name: str) -> Way | None:
    """The way of rows over a flat value; None where there is another kind of node on it."""
    node, names = graph[name], []
    layers: list[tuple[str | None, str]] = []
    lines: str | None = None
    while (reached := source(graph, node)) is None:
        names.append(node.name)
        if len(node.type.shape) != 1 or len(node.inputs) != 1:
            return None
        operand = graph[node.inputs[0]]
        if isinstance(node.op, Linear):
            layers.append((lines, node.name))
            lines = None
        elif lines is None and operand.type.shape == node.type.shape:
            lines = node.name
        else:
            return None
        node = operand
    if lines is not None or not layers or len(node.type.shape) != 1:
        return None
    return Way(tuple(layers), node.name, reached, frozenset((*names, node.name, reached)))


def source(graph: Graph, node: Node) -> str | None:
    """The input of which a value is an elementwise image; None where it is none."""
    while isinstance(node.op, Reshape | ScaleShift):
        node = graph[node.inputs[0]]
    return node.name if isinstance(node.op, Input) else None


def straight(view: View, name: str, form: Form, constant: Tensor, *, twice: bool) -> Tensor | None:
    """Lower bounds of rows of a form over a value, with constants `[rows]`; with `twice` those of their negatives come
    behind them. None where there is no way of this kind, or no compiled code for it."""
    context = view.context
    found = way(context.graph, name) if available() and not isinstance(form, Patches) else None
    if found is None or not context.regions[found.source].is_box:
        return None
    if not found.nodes.isdisjoint(context.known) or not found.nodes.isdisjoint(context.shortcuts):
        return None
    layers = []
    for bent, linear in found.layers:
        affine, lines = context.relaxed[linear], None if bent is None else view.lines(bent)
        if not isinstance(affine, Affine) or not isinstance(affine.op, Linear) or (bent is not None and lines is None):
            return None
        weight = affine.op.weight
        assert isinstance(weight, Tensor)  # what is derived has been looked up
        parts = () if lines is None else (lines.slope, lines.rise, lines.base, lines.top)
        layers.append(Layer(weight, affine.offset, *parts))
    if not isinstance(form, Units):
        columns = form.index if isinstance(form, Columns) else None
        start = Start(form.coefficients, constant, None, form.owner, twice, columns)
    else:
        first = layers.pop(0)
        if first.slope is not None:
            return None
        if first.bias is not None:
            constant = constant + first.bias.index_select(0, form.elements)
        start = Start(first.weight, constant, form.elements, form.owner, twice)
    center, radius = view.box(found.end)
    if recorded(start.coefficients, constant, center, radius, *(part for layer in layers for part in layer)):
        return None
    return lower_bounds(start, layers, center, radius)

"""Bounds by a walk through the graph at every step: for methods and operators that are not specialised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.backends.torch.program import Box, Found, Variant, read_by_nonlinear
from irverify.backends.torch.steps import statistics
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import BatchNorm, Constant, Input
from irverify.pipeline.rows import margin_rows, rows_run
from irverify.regions import Box as BoxRegion


@without_autocast()
def walked(graph: Graph, box: Box, labels: Tensor, variant: Variant) -> Found:
    """What a program would give, by the analysis itself. Raises what `iv.margins` raises."""
    values, normalised, found = _clean(graph, box, variant.trained)
    regions = [BoxRegion(lower, upper) for lower, upper in zip(box.lower, box.upper, strict=True)]
    state = rows_run(normalised, regions, margin_rows(normalised, regions, labels), variant.method)
    result = state.graph.outputs[0]
    bounds = {name: state.bounds_of(name) for name in read_by_nonlinear(state.graph)}
    logits = torch.cat([values[name].reshape(len(labels), -1) for name in graph.outputs], dim=1)
    ends = {name: (entry.lower, entry.upper) for name, entry in bounds.items()}
    return Found(logits, state.bounds[result].lower, None, None, ends, found)


def _clean(
    graph: Graph, box: Box, trained: frozenset[str]
) -> tuple[dict[str, Tensor], Graph, Mapping[str, tuple[Tensor, Tensor]]]:
    """Every concrete value; the graph whose batch normalisations take the statistics of this batch; these."""
    values = dict(zip((node.name for node in graph.inputs), box.clean, strict=True))
    nodes: list[Node] = []
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for node in graph:
        operands = [values[name] for name in node.inputs]
        if node.name in trained:
            assert isinstance(node.op, BatchNorm)
            mean, variance = found[node.name] = statistics(operands[0])
            op = node.op.replace(mean=mean, variance=variance)
            node = Node(node.name, op, node.inputs, node.type, node.source)
        nodes.append(node)
        if isinstance(node.op, Constant):
            values[node.name] = node.op.evaluate().expand(box.clean[0].shape[0], *node.type.shape)
        elif not isinstance(node.op, Input):
            values[node.name] = node.op.evaluate(*operands)
    return values, Graph(nodes, graph.outputs, graph.name) if trained else graph, found

"""The margins of a property as variables of an encoding."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from torch import Tensor

from irverify.backends.milp.encoding import Encoding
from irverify.backends.milp.expressions import composed, concatenated
from irverify.backends.milp.model import Floats, Indices, Terms
from irverify.ir.graph import Graph
from irverify.properties import Disjunct, Property


def bound_to(prop: Property, graph: Graph) -> Property:
    """The property with its rows over all inputs and outputs of `graph`. PropertyError where they do not fit."""
    n_in = sum(node.type.size for node in graph.inputs)
    return prop.bind(n_in, sum(graph[name].type.size for name in graph.outputs))


def margins(encoding: Encoding, disjunct: Disjunct, name: str = "margin") -> Indices:
    """Appends variables `name` for the margins `A x + C y + d` of one disjunct, and returns their numbers."""
    graph = encoding.graph
    wanted = [(disjunct.outputs, list(graph.outputs)), (disjunct.inputs, [node.name for node in graph.inputs])]
    constant = _numpy(disjunct.offset)
    terms = []
    for coefficients, names in wanted:
        if coefficients is None:
            continue
        matrix = sparse.csr_array(_numpy(coefficients))
        value = concatenated([encoding.values[name] for name in names])
        terms.append(composed(matrix, value))
        constant = constant + matrix @ value.shift
    return encoding.sums(name, terms, constant).columns


def largest(encoding: Encoding, parts: Indices) -> int:
    """The variable that, minimised, is the largest of some margins."""
    if len(parts) == 1:
        return int(parts[0])
    builder = encoding.builder
    lower, upper = (side[parts] for side in builder.bounds())
    worst = builder.variables("worst", lower.max(), upper.max(), value=lambda x: x[parts].max(keepdims=True))
    same = np.repeat(worst, len(parts))
    builder.rows("worst.above", [Terms(same), Terms(parts, -1.0)], np.zeros(len(parts)), np.inf, owner=same)
    return int(worst[0])


def smallest(encoding: Encoding, disjuncts: list[Indices]) -> int:
    """The variable that, minimised, is the smallest over some disjuncts of the largest of their margins: with a binary
    for each disjunct, one of which is 1, it is at least each margin of that one."""
    builder, count = encoding.builder, len(disjuncts)
    lower, upper = builder.bounds()
    parts = np.concatenate(disjuncts)
    which = np.repeat(np.arange(count), [len(part) for part in disjuncts])

    def largest_of(x: Floats) -> Floats:
        return np.array([x[part].max() for part in disjuncts])

    floor, ceiling = float(largest_of(lower).min()), float(largest_of(upper).min())
    chosen = builder.variables(
        "disjunct",
        0.0,
        np.ones(count),
        integer=True,
        value=lambda x: (np.arange(count) == largest_of(x).argmin()).astype(np.float64),
    )
    builder.rows("disjunct.one", [Terms(chosen, sparse.csr_array(np.ones((1, count))))], [1.0], [1.0])
    worst = builder.variables("worst", floor, ceiling, value=lambda x: largest_of(x).min(keepdims=True))
    same, room = np.repeat(worst, len(parts)), np.maximum(upper[parts] - floor, 0.0)
    terms = [Terms(same), Terms(parts, -1.0), Terms(chosen[which], -room)]
    builder.rows("worst.above", terms, -room, np.inf, owner=same)
    return int(worst[0])


def _numpy(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy())

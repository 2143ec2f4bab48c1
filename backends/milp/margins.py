"""The margins of a property as variables of an encoding, and what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from torch import Tensor

from irverify.backends.milp.encoding import Encoding
from irverify.backends.milp.expressions import composed, concatenated
from irverify.backends.milp.model import Floats, Indices, ModelBuilder, Terms
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


def worst(encoding: Encoding, parts: Sequence[Indices]) -> int:
    """The variable that, minimised, is the smallest over some disjuncts of the largest of their margins."""
    return largest(encoding, parts[0]) if len(parts) == 1 else _smallest(encoding, parts)


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


def violated(encoding: Encoding, parts: Sequence[Indices], limit: float) -> None:
    """Appends rows that hold where all margins of one of some disjuncts are <= `limit`: with a binary for each disjunct
    where there are several, one of which is 1."""
    builder, together = encoding.builder, np.concatenate(parts)
    terms, limits = [Terms(together)], np.full(len(together), limit)
    if len(parts) > 1:
        room = np.maximum(builder.bounds()[1][together] - limit, 0.0)
        terms.append(Terms(_choice(builder, parts), room))
        limits = limits + room
    builder.rows("violated", terms, -np.inf, limits)


def _smallest(encoding: Encoding, parts: Sequence[Indices]) -> int:
    """At least each margin of the disjunct whose binary is 1."""
    builder, together = encoding.builder, np.concatenate(parts)
    lower, upper = builder.bounds()
    floor, ceiling = (float(_largest_of(side, parts).min()) for side in (lower, upper))
    chosen = _choice(builder, parts)
    worst = builder.variables("worst", floor, ceiling, value=lambda x: _largest_of(x, parts).min(keepdims=True))
    same, room = np.repeat(worst, len(together)), np.maximum(upper[together] - floor, 0.0)
    terms = [Terms(same), Terms(together, -1.0), Terms(chosen, -room)]
    builder.rows("worst.above", terms, -room, np.inf, owner=same)
    return int(worst[0])


def _choice(builder: ModelBuilder, parts: Sequence[Indices]) -> Indices:
    """A binary for each disjunct, one of which is 1; for each margin the one of its disjunct."""
    count = len(parts)

    def best(x: Floats) -> Floats:
        return np.asarray(np.arange(count) == _largest_of(x, parts).argmin(), dtype=np.float64)

    chosen = builder.variables("disjunct", 0.0, np.ones(count), integer=True, value=best)
    builder.rows("disjunct.one", [Terms(chosen, sparse.csr_array(np.ones((1, count))))], [1.0], [1.0])
    return np.asarray(chosen[np.repeat(np.arange(count), [len(part) for part in parts])], dtype=np.int64)


def _largest_of(x: Floats, parts: Sequence[Indices]) -> Floats:
    return np.array([x[part].max() for part in parts])


def _numpy(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy())

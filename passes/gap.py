"""Where a linear lower bound is attained, and how far the network is above it there.

The backward engine ends with `c . y(x) >= A . x + b` for all x of the region (paper 2, eq. 7). The input that minimises
the right-hand side, for an l-infinity ball `x - eps sign(A)` and for an l2 ball `x - eps A / |A|_2` (paper 2, sec.
4.2; its algorithm 1 has the sign wrong), is the relaxed adversary's choice: a good place to start an attack from. The
network's own value there is at least the minimum that is sought, the bound at most; their distance is the gap

    d = c . y(x + delta*) - min over x' of (A . x' + b)  >=  0                              (paper 2, eq. 8)

and where it is 0 the bound is exact.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.ir.ops import Constant, Input, Operand, Spec
from irverify.passes.backward import Context, LinearForm, Rows, linear_form
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, Choice
from irverify.pipeline.manager import Given
from irverify.pipeline.rows import row_state
from irverify.pipeline.state import State
from irverify.properties import Property

CHUNK = 2**28
"""How many bytes of coefficients over the widest value are propagated at once."""
Points: TypeAlias = tuple[Tensor, ...]
"""For each network input, in order, `[batch, rows, *shape]`."""


class Minimum(NamedTuple):
    """The least values of the linear lower bounds of the rows of a specification, `[batch, rows]`, and the points of
    the region that attain them."""

    bound: Tensor
    points: Points


def relaxed_minimizers(graph: Graph, region: Given, prop: Property, method: str = "crown") -> Points:
    """For each row of a property (all disjuncts, in order) the input at which its linear lower bound is least.

    `[batch, rows, *shape]` for each network input, inside the region as converted to the graph's element type: project
    them where the model is to be run in another one. `method` is the analysis, or the pipeline that ends in one, whose
    bounds of the other values are used; the lower line of a ReLU is the adaptive one. Raises UnsupportedError where an
    operator has no linear bounds.
    """
    return minimum(row_state(graph, region, prop, method)[1]).points


def minimum(state: State, choice: Choice = "adaptive") -> Minimum:
    """The least values of the linear bounds of a specification, from the bounds that a state has: one backward pass.

    The graph of the state must end in a specification. Nothing here is differentiated.
    """
    with torch.no_grad():
        context, name = relaxed_context(state, choice), _specification(state.graph)
        batch, count = state.batch, state.graph[name].type.shape[0]
        widest = max(node.type.size * node.type.dtype.itemsize for node in state.graph)
        step = max(1, CHUNK // (widest * count))
        parts = [_rows(context, name, batch, slice(start, start + step)) for start in range(0, batch, step)]
        forms = [torch.cat([part.coefficients[node.name] for part in parts]) for node in state.graph.inputs]
        bound, points = torch.cat([part.constant for part in parts]), []
        owner = torch.arange(batch, device=bound.device).repeat_interleave(count)
        for region, coefficients in zip(state.given_regions("gap"), forms, strict=True):
            place = region.select(owner)
            bound = bound + place.lower_of(coefficients.unsqueeze(1)).squeeze(1)
            usable = coefficients.nan_to_num(0.0, 0.0, 0.0)  # an overflow leaves a bound of no use, not a point of none
            points.append(place.minimizer(usable).reshape(batch, count, *coefficients.shape[1:]))
        return Minimum(bound.reshape(batch, count), tuple(points))


def _rows(context: Context, name: str, batch: int, examples: slice) -> LinearForm:
    """The rows of the specification of some examples, with zeros for inputs that they do not reach."""
    node = context.graph[name]
    count, dtype = node.type.shape[0], node.type.dtype
    device = next(iter(context.regions.values())).center.device
    chosen = torch.arange(batch, device=device)[examples]
    identity = torch.eye(count, dtype=dtype, device=device).repeat(len(chosen), 1)
    form = linear_form(context, name, Rows(identity, chosen.repeat_interleave(count), batch))
    reached = {
        entry.name: form.coefficients.get(entry.name, identity.new_zeros(len(identity), *entry.type.shape))
        for entry in context.graph.inputs
    }
    return LinearForm(reached, form.constant)


def _specification(graph: Graph) -> str:
    last = graph.outputs[0]
    if len(graph.outputs) != 1 or not isinstance(graph[last].op, Spec):
        raise UsageError(
            f"expected a specification as the only output, got {', '.join('%' + name for name in graph.outputs)}",
            where=f"graph {graph.name!r}",
            hint="run with spec=(C, d), or use margins, row_bounds or relaxed_minimizers",
        )
    return last


def relaxed_context(state: State, choice: Choice) -> Context:
    """Every node of the state's graph between linear bounds that its known bounds allow (ibp where there are none)."""
    graph = state.graph
    rules = RELAXATIONS.resolve(graph)
    names = [node.name for node in graph.inputs]
    context = Context(graph, dict(zip(names, state.given_regions("gap"), strict=True)))
    for node, rule in rules:
        if isinstance(node.op, Input):
            continue
        if isinstance(node.op, Operand):
            context.known[node.name] = state.operands[node.name]
        elif isinstance(node.op, Constant):
            context.known[node.name] = node.op.evaluate().expand(state.batch, *node.type.shape)
        elif all(name in context.known for name in node.inputs):
            context.known[node.name] = node.op.evaluate(*(context.known[name] for name in node.inputs))
        else:
            assert rule is not None  # given values are dealt with
            context.relaxed[node.name] = rule(node, [_interval(state, context, name) for name in node.inputs], choice)
    return context


def _interval(state: State, context: Context, name: str) -> Interval:
    if name in context.known:
        return Interval(context.known[name], context.known[name])
    bounds = state.bounds_of(name)
    return Interval(bounds.lower, bounds.upper)

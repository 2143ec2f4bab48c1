"""Interval propagation: one walk through a graph in topological order, with the rules of one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, Node, without_dead_values
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Constant, Identity, Input, MaxPool, Relu, Reshape, Step, Transpose, Trunc
from irverify.ir.recording import recorded
from irverify.kernels import bounds as compiled
from irverify.passes.rules import RuleTable
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.state import State


class Interval(NamedTuple):
    """`lower <= value <= upper`, both `[batch, *shape]`; one and the same tensor where the value is known exactly."""

    lower: Tensor
    upper: Tensor

    @property
    def exact(self) -> bool:
        """The value does not depend on the perturbed input: a constant, a runtime operand, or what is made of these."""
        return self.lower is self.upper


class Spent(Interval):
    """An interval that nobody reads any more but the rule that gets it, in memory that is nobody else's: the rule may
    write over it."""

    __slots__ = ()


def tightened(interval: Interval, low: Tensor, high: Tensor) -> Interval:
    """`interval` met with bounds of the same value. Of these NaN, and what is infinite on the wrong side, comes from an
    overflow and says nothing. What has crossed by rounding, as on a point, changes places."""
    if not recorded(*interval, low, high):
        found = compiled.tightened(*interval, low, high)
        if found is not None:
            return Interval(*found)
    lower = torch.where((low > interval.lower) & (low < math.inf), low, interval.lower)
    upper = torch.where((high < interval.upper) & (high > -math.inf), high, interval.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


IntervalRule: TypeAlias = Callable[..., Interval]
"""`rule(node, *operands: Interval) -> Interval`: bounds of `node.op` on a box of operands."""


KEEP_ORDER = frozenset({Relu, MaxPool, Reshape, Transpose, Identity})
"""Operators that make no new numbers: evaluated at ends that are in order, they give such, without rounding."""
Refine: TypeAlias = Callable[[Node, Interval, Mapping[str, Interval]], Interval]
"""`refine(node, interval, results)`: a tighter interval of `node` than the one that was found, from those before it."""


def propagate(
    graph: Graph,
    table: RuleTable[IntervalRule],
    given: Mapping[str, Interval],
    known: Mapping[str, Bounds],
    refine: Refine | None = None,
    certain: Mapping[str, Interval] | None = None,
    forget: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Interval]:
    """Intervals of every value, but for those that are to be forgotten at some node.

    `given` has the network inputs and runtime operands by name; where `known` has bounds of a value, the propagated
    ones are intersected with them before they are used further, and `refine` may tighten them once more. Values in
    `certain` are left with the interval that they have there. Raises UnsupportedError, listing all, where rules are
    missing.
    """
    batch = next(iter(given.values())).lower.shape[0] if given else 1
    results: dict[str, Interval] = {}
    for node, rule in table.resolve(graph):
        if rule is None:
            interval = constant(node, batch) if isinstance(node.op, Constant) else given[node.name]
        else:
            operands = [results[name] for name in node.inputs]
            interval = applied(node, rule, operands)
        if interval.lower is not interval.upper and node.name in known:
            met = Bounds(*interval, table.analysis).meet(known[node.name], node.name, graph.coarsest)
            interval = Interval(met.lower, met.upper)
        found = interval if refine is None else refine(node, interval, results)
        results[node.name] = found if certain is None else certain.get(node.name, found)
        for name in forget.get(node.name, ()) if forget is not None else ():
            del results[name]
    return results


def constant(node: Node, batch: int) -> Interval:
    """The interval of a constant."""
    tensor = node.op.evaluate().expand(batch, *node.type.shape)
    return Interval(tensor, tensor)


def applied(node: Node, rule: IntervalRule, operands: Sequence[Interval]) -> Interval:
    """What a rule gives, or the value itself where all operands are known."""
    for operand in operands:
        if operand.lower is not operand.upper:
            return rule(node, *operands)
    tensor = node.op.evaluate(*(operand.lower for operand in operands))
    return Interval(tensor, tensor)


def interval_facts(
    state: State,
    table: RuleTable[IntervalRule],
    source: str,
    refine: Refine | None = None,
    read: frozenset[str] | None = None,
) -> Facts:
    """The facts of an analysis that is a walk with one table; of the values alone that are asked for without `refine`,
    and where that is said to `read` no others than these, apart from operands."""
    given = {name: Interval(tensor, tensor) for name, tensor in state.operands.items()}
    for node, region in zip(state.graph.inputs, state.given_regions(source), strict=True):
        box = state.bounds.get(node.name)
        given[node.name] = Interval(*region.box()) if box is None else Interval(box.lower, box.upper)
    certain = _read_by_jumps(state.graph, given)
    if state.keep is not None and certain is None and (refine is None or read is not None):
        from irverify.passes.frugal import facts_of_few  # which builds on this module

        return facts_of_few(state, table, source, given, state.keep, refine, read or frozenset())
    unchanged: set[str] = set()

    def noted(node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        found = interval if refine is None else refine(node, interval, results)
        if found is interval:
            unchanged.add(node.name)
        return found

    intervals = propagate(state.graph, table, given, state.bounds, noted, certain)
    inputs = {node.name for node in state.graph.inputs}
    bounds = {name: Bounds(*interval, source) for name, interval in intervals.items() if name not in inputs}
    for name, found in bounds.items():
        node = state.graph[name]
        if type(node.op) in KEEP_ORDER and name in unchanged:
            found.assume_ordered()  # its operand has been looked at
        elif not found.ordered:
            check_finite(node, intervals)
            break
    return Facts(bounds)


def _read_by_jumps(graph: Graph, given: Mapping[str, Interval]) -> dict[str, Interval] | None:
    """What discontinuous operators read, by intervals rounded outward; None where there are none.

    Where an operand comes near a jump, rounding in tighter bounds of it would decide between two values, and no margin
    for rounding in what follows covers that.
    """
    read = _jumping(graph)
    if not read:
        return None
    from irverify.passes.ibp import IBP  # both build on this module
    from irverify.passes.outward import outward

    part = without_dead_values(Graph(graph.nodes, read, graph.name))
    with torch.no_grad():
        found = propagate(part, IBP, given, {}, outward)
    return {name: found[name] for name in read if not isinstance(graph[name].op, Input)}


@once_a_graph
def _jumping(graph: Graph) -> tuple[str, ...]:
    """What discontinuous operators read."""
    return tuple(name for node in graph if isinstance(node.op, Step | Trunc) for name in node.inputs)


def check_finite(node: Node, intervals: Mapping[str, Interval]) -> None:
    """NaN that comes from an infinite bound, and a bound that is infinite on the wrong side, are an overflow: the
    network's and region's doing, not a fault."""
    lower, upper = intervals[node.name]
    names = [name for name in node.inputs if not all(bool(side.isfinite().all()) for side in intervals[name])]
    if bool((lower == math.inf).any() or (upper == -math.inf).any()):
        names = [node.name]
    if names:
        raise UnsupportedError(
            f"the bounds of {', '.join('%' + name for name in names)} are infinite (an overflow in {lower.dtype}), "
            "which gives none for it",
            where=str(node),
            hint="make the region smaller",
        )

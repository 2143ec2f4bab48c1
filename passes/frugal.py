"""Intervals of some values alone, with little memory: on one walk a value is forgotten after its last reader, which may
write over it, and wide planes are computed for some examples at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import (
    Add,
    AveragePool,
    BatchNorm,
    Conv,
    Elementwise,
    Input,
    Linear,
    MaxPool,
    Relu,
    Reshape,
    ScaleShift,
    Sigmoid,
    Tanh,
)
from irverify.ir.recording import recorded
from irverify.kernels.native import watched
from irverify.passes.propagate import (
    KEEP_ORDER,
    Interval,
    IntervalRule,
    Refine,
    Spent,
    applied,
    check_finite,
    constant,
    propagate,
)
from irverify.passes.rules import RuleTable
from irverify.pipeline.facts import Bounds, Facts
from irverify.pipeline.state import State

FRESH = (Conv, Linear, Relu, Sigmoid, Tanh, MaxPool, AveragePool)
"""Operators whose intervals are always in new memory, that of the lower bounds apart from that of the upper ones."""
PLANES = (Conv, Elementwise, ScaleShift, BatchNorm, MaxPool, AveragePool, Reshape)
"""Operators of one operand that take hardly longer for some examples after the others."""
HELD, TENSORS = 2**21, 4
"""Where so many tensors of a value take more bytes, it is computed for fewer examples at a time, to stay in a cache."""


def facts_of_few(
    state: State,
    table: RuleTable[IntervalRule],
    source: str,
    given: Mapping[str, Interval],
    keep: frozenset[str],
    refine: Refine | None = None,
    read: frozenset[str] = frozenset(),
) -> Facts:
    """The facts of an analysis that is a walk with one table, of these values alone; `refine` may read others, beside
    operands."""
    plain = refine is None and all(node.name not in state.bounds for node in state.graph if node.inputs)
    if plain and _unnoticed(state.graph, given):
        found = _overwriting(state.graph, table, source, given, keep)
        if found is not None:
            return Facts(found)
    bounds: dict[str, Bounds] = {}

    def looked_at(node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        if isinstance(node.op, Input):
            return interval
        tight = interval if refine is None else refine(node, interval, results)
        found = Bounds(*tight, source)
        if type(node.op) in KEEP_ORDER and tight is interval:
            found.assume_ordered()  # its operand has been looked at
        elif not found.ordered:
            check_finite(node, {**results, node.name: tight})
            found.check(node.name)
        if node.name in keep:
            bounds[node.name] = found
        return tight

    propagate(state.graph, table, given, state.bounds, looked_at, forget=_last_read(state.graph, keep | read))
    return Facts(bounds)


def _unnoticed(graph: Graph, given: Mapping[str, Interval]) -> bool:
    """Whether nobody would notice that a value is written over: neither autograd nor who follows operations."""
    sides = [side for interval in given.values() for side in interval]
    if watched() or torch._C._are_functorch_transforms_active() or recorded(*sides, *graph.leaves):
        return False
    return all(side.is_cpu for side in sides)


def _overwriting(
    graph: Graph, table: RuleTable[IntervalRule], source: str, given: Mapping[str, Interval], keep: frozenset[str]
) -> dict[str, Bounds] | None:
    """The bounds; None where some are out of order, which is for the walk that writes over nothing to tell."""
    batch = next(iter(given.values())).lower.shape[0] if given else 1
    plan, forget, spent = table.resolve(graph), _last_read(graph, keep), _spent(graph, keep)
    results: dict[str, Interval] = {}
    bounds: dict[str, Bounds] = {}
    for begin, end, size in _stretches(graph, keep, batch):
        node, rule = plan[begin]
        if rule is None:
            interval = given[node.name] if node.name in given else constant(node, batch)
            if isinstance(node.op, Input):
                results[node.name] = interval
                continue
            found = _looked_at(node, interval, source)
        else:
            operands = [_operand(results[name], name in spent) for name in node.inputs]
            if end - begin > 1 or size < batch:
                found = _in_parts(plan[begin:end], operands[0], size, spent, source)
            else:
                found = _looked_at(node, applied(node, rule, operands), source)
            del operands
        if found is None:
            return None
        last = plan[end - 1][0].name
        results[last] = Interval(found.lower, found.upper)
        if last in keep:
            bounds[last] = found
        for name in forget.get(node.name, ()):  # what comes after it in a stretch reads nothing from before
            del results[name]
    return bounds


def _operand(interval: Interval, spent: bool) -> Interval:
    return Spent(*interval) if spent and interval.lower is not interval.upper else interval


def _looked_at(node: Node, interval: Interval, source: str) -> Bounds | None:
    found = Bounds(*interval, source)
    if type(node.op) in KEEP_ORDER:
        found.assume_ordered()
    return found if found.ordered else None


def _in_parts(
    steps: Sequence[tuple[Node, IntervalRule | None]], operand: Interval, size: int, spent: frozenset[str], source: str
) -> Bounds | None:
    """The last of a few values each of which reads the one before, for so many examples at a time."""
    if operand.lower is operand.upper:
        return None
    whole: Interval | None = None
    for at in range(0, operand.lower.shape[0], size):
        part = type(operand)(operand.lower[at : at + size], operand.upper[at : at + size])
        for node, rule in steps:
            assert rule is not None
            found = _looked_at(node, applied(node, rule, [part]), source)
            if found is None:
                return None
            part = _operand(Interval(found.lower, found.upper), node.name in spent)
        if whole is None:
            shape = operand.lower.shape[0], *part.lower.shape[1:]
            whole = Interval(part.lower.new_empty(shape), part.upper.new_empty(shape))
        for side, all_ in zip(part, whole, strict=True):
            all_[at : at + size] = side
    assert whole is not None
    result = Bounds(*whole, source)
    result.assume_ordered()  # each part has been looked at
    return result


@once_a_graph
def _last_read(graph: Graph, keep: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """By the name of a node the values that nothing reads after it."""
    last = {name: node.name for node in graph for name in node.inputs}
    found: dict[str, tuple[str, ...]] = {}
    for name, reader in last.items():
        if name not in keep:
            found[reader] = (*found.get(reader, ()), name)
    return found


@once_a_graph
def _spent(graph: Graph, keep: frozenset[str]) -> frozenset[str]:
    """Values that one node reads, once, and nobody else, in memory of their own, or in that of another such value."""
    found: set[str] = set()
    for node in graph:
        fresh = type(node.op) in FRESH or (type(node.op) is Add and len(node.inputs) > 1)
        fresh = fresh or (type(node.op) is Reshape and node.inputs[0] in found)
        if fresh and node.name not in keep and len(graph.users(node.name)) == 1:
            found.add(node.name)
    return frozenset(found)


@once_a_graph
def _stretches(graph: Graph, keep: frozenset[str], batch: int) -> tuple[tuple[int, int, int], ...]:
    """The nodes from one index to another, and for how many examples at a time they are computed: several together
    where values between them are wide, and else each alone."""
    held = {node.name: node.type.size * node.type.dtype.itemsize * TENSORS for node in graph}

    def width(node: Node) -> int:
        """Bytes of one example where parts of the batch are worth their while, else 0."""
        parts = isinstance(node.op, PLANES) and len(node.inputs) == 1
        found = max(held[node.name], held[node.inputs[0]]) if parts else 0
        return found if batch > 1 and batch * found > HELD else 0

    found: list[tuple[int, int, int]] = []
    begin = widest = 0
    for index, node in enumerate(graph.nodes):
        widest = max(widest, width(node))
        after = graph.nodes[index + 1 : index + 2]
        alone = node.name not in keep and len(graph.users(node.name)) == 1
        if widest and alone and any(width(other) and other.inputs == (node.name,) for other in after):
            continue
        found.append((begin, index + 1, math.ceil(batch / math.ceil(batch * widest / HELD)) if widest else batch))
        begin, widest = index + 1, 0
    return tuple(found)

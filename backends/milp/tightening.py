"""Tighter bounds of the values that nonlinear operators read, and of outputs, from programs over the network so far."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from irverify.backends.milp.cones import Cones
from irverify.backends.milp.encoding import CROSSING, Bounds, Encoding, nonlinear
from irverify.backends.milp.expressions import Affine
from irverify.backends.milp.margins import bound_to, largest, margins
from irverify.backends.milp.model import Floats, Indices, MilpModel
from irverify.backends.milp.process import Pool
from irverify.backends.milp.programs import FOREVER, LinearPrograms, Wishes, box_sums, unseen
from irverify.backends.milp.witnesses import Witnesses, open_sides
from irverify.ir.graph import Graph, Node
from irverify.properties import Property

Outputs: TypeAlias = Literal["none", "lower", "both"]
"""Which bounds of the outputs are asked for."""


@dataclass(frozen=True)
class Goals:
    """What programs are spent on: unstable operands of nonlinear operators where `intermediate`; the lower or both
    bounds of the `outputs`; the margins of `prop`. `witnesses` are executions that bounds are held against. With
    `signs` only sides of an operand that may settle its sign are asked for; witnesses then say which do not."""

    intermediate: bool = True
    witnesses: Witnesses | None = None
    signs: bool = False
    outputs: Outputs = "none"
    prop: Property | None = None


@dataclass(frozen=True)
class Tightening:
    """`bounds`: value name -> (lower, upper), float64 of the value's shape, for each value that was encoded; they hold
    for the network in real arithmetic up to the rounding of its rows. `solved` programs in `seconds`; `finished` is
    False where time did not suffice and some bounds are the old ones. `open`: node -> how many of its elements stay
    unstable. `margins` `[disjuncts]`, where a property was given: a lower bound of the largest margin of each disjunct
    of its violation; a positive one refutes that disjunct."""

    bounds: dict[str, tuple[Floats, Floats]]
    solved: int
    seconds: float
    finished: bool
    open: dict[str, int]
    margins: Floats | None = None


def tighten(
    graph: Graph,
    region: Any,
    bounds: Bounds | None = None,
    *,
    prop: Property | None = None,
    time_limit: float | None = None,
    pool: Pool | None = None,
) -> Tightening:
    """Bounds from the triangle relaxation (paper 1, app. D.2: LP), for one example.

    In topological order, for each nonlinear operator: what `bounds` and intervals leave unstable is bounded from both
    sides over the relaxation of everything before it, in which the bounds found so far count already, and the side
    nearer to zero first; where it settles the element, the other side is not asked for. Under a time limit every such
    operator has its share. Bounds come from duals by weak duality, and are rigorous for the rows as they stand.
    """
    with nullcontext(pool) if pool is not None else Pool(2) as workers:
        encoding = Encoding(graph, region, bounds, relaxed=True)
        return walk(encoding, LinearPrograms(workers), Goals(prop=prop), time_limit)


class Programs(Protocol):
    """What bounds variables over a model, until a deadline."""

    deadline: float
    solved: int
    finished: bool

    def bounds(self, model: MilpModel, wishes: Wishes) -> tuple[Floats, Floats]: ...


def walk(encoding: Encoding, programs: Programs, goals: Goals, time_limit: float | None = None) -> Tightening:
    """Encodes what is pending, tightening on the way."""
    started = time.time()
    deadline = started + (FOREVER if time_limit is None else time_limit)
    left = dict[str, int]()
    waiting = sum(map(nonlinear, encoding.pending()))
    for node in encoding.pending():
        if nonlinear(node):
            # Twice its share of what is left, where the outputs have a share as well: most nodes need less.
            programs.deadline = time.time() + min(0.75, 2 / (waiting + 1)) * (deadline - time.time())
            waiting -= 1
            if goals.intermediate:
                _tighten_operands(encoding, node, programs, goals)
            left[node.name] = len(encoding.unstable(node)[0])
        encoding.add(node)
    programs.deadline = deadline
    if goals.outputs != "none":
        _tighten_outputs(encoding, programs, lower_only=goals.outputs == "lower")
    prop = goals.prop
    worst = None if prop is None else _margins(encoding.branch(), bound_to(prop, encoding.graph), programs)
    shapes = {name: encoding.graph[name].type.shape for name in encoding.values}
    result = {
        name: (lower.reshape(shapes[name]), upper.reshape(shapes[name]))
        for name, (lower, upper) in ((name, encoding.bounds(name)) for name in encoding.values)
    }
    return Tightening(result, programs.solved, time.time() - started, programs.finished, left, worst)


def _tighten_operands(encoding: Encoding, node: Node, programs: Programs, goals: Goals) -> None:
    """Tightens what `node` reads and is unstable."""
    targets, knots = _variables(*encoding.unstable(node))
    if not targets.size:
        return
    seen, sides = unseen(len(targets)), np.ones((len(targets), 2), dtype=np.bool_)
    if goals.witnesses is not None:
        simple, *_ = box_sums(Cones(encoding.builder.build()), targets)
        for name in node.inputs:
            value = encoding.values[name]
            if goals.signs:
                behind = np.isin(value.columns, targets[~simple]) & (value.scale != 0)
                goals.witnesses.search(name, np.flatnonzero(behind))
            low, high = goals.witnesses.ranges(name, value, targets)
            seen = np.minimum(seen[0], low), np.maximum(seen[1], high)
        sides = open_sides(knots, seen) if goals.signs else sides
    _restrict(encoding, programs, Wishes(targets, knots, sides, seen, goals.signs))


def _tighten_outputs(encoding: Encoding, programs: Programs, *, lower_only: bool) -> None:
    for name in encoding.graph.outputs:
        value = encoding.values[name]
        plain = lower_only and bool((value.scale >= 0).all())
        targets, _ = _variables(value, np.full(len(value), np.nan))
        _restrict(encoding, programs, Wishes.plain(targets, lower_only=plain))


def _restrict(encoding: Encoding, programs: Programs, wishes: Wishes) -> None:
    if wishes.targets.size:
        lower, upper = programs.bounds(encoding.builder.build(), wishes)
        # On a point bounds cross by rounding; what crosses by more is a fault, and stays for others to see.
        rounded = lower - upper <= CROSSING * (1 + np.minimum(np.abs(lower), np.abs(upper)))
        low, high = np.minimum(lower, upper), np.maximum(lower, upper)
        lower, upper = np.where(rounded, low, lower), np.where(rounded, high, upper)
        encoding.builder.restrict(wishes.targets, lower, upper)


def _margins(encoding: Encoding, prop: Property, programs: Programs) -> Floats:
    """A lower bound of the largest margin of each disjunct."""
    targets = np.array([largest(encoding, margins(encoding, disjunct)) for disjunct in prop.disjuncts], dtype=np.int64)
    bounds = encoding.builder.bounds()[0][targets]
    undecided = np.flatnonzero(~(bounds > 0))
    if undecided.size:
        wishes = Wishes.plain(targets[undecided], lower_only=True)
        bounds[undecided], _ = programs.bounds(encoding.builder.build(), wishes)
    return bounds


def _variables(elements: Affine, knots: Floats) -> tuple[Indices, Floats]:
    """The variables behind some elements, and their knots; NaN where a variable stands for several elements."""
    free = elements.scale != 0
    knots = (knots[free] - elements.shift[free]) / elements.scale[free]
    columns, first, counts = np.unique(elements.columns[free], return_index=True, return_counts=True)
    return columns, np.where(counts == 1, knots[first], np.nan)

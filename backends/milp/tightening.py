"""Tighter bounds of the values that nonlinear operators read, from linear programs over the relaxed network."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from irverify.backends.milp.cones import Cones
from irverify.backends.milp.encoding import Bounds, Encoding, nonlinear
from irverify.backends.milp.expressions import Affine
from irverify.backends.milp.margins import bound_to, largest, margins
from irverify.backends.milp.model import Floats, Indices
from irverify.backends.milp.process import Pool
from irverify.backends.milp.tasks import LpTask
from irverify.ir.graph import Graph, Node
from irverify.properties import Property

FOREVER = 1e9


@dataclass(frozen=True)
class Tightening:
    """`bounds`: value name -> (lower, upper), float64 of the value's shape, for each value that was encoded; they hold
    for the network in real arithmetic up to the rounding of its rows. `solved` linear programs in `seconds`;
    `finished` is False where time did not suffice and some bounds are the old ones. `open`: node -> how many of its
    elements stay unstable. `margins` `[disjuncts]`, where a property was given: a lower bound of the largest margin of
    each disjunct of its violation; a positive one refutes that disjunct."""

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
    nearer to zero first; where it settles the element, the other side is not asked for. Bounds come from duals by weak
    duality, and are rigorous for the rows as they stand.
    """
    started = time.time()
    deadline = started + (FOREVER if time_limit is None else time_limit)
    encoding = Encoding(graph, region, bounds, relaxed=True)
    solved, finished, left = 0, True, dict[str, int]()
    with nullcontext(pool) if pool is not None else Pool(2) as workers:
        for node in encoding.pending():
            if nonlinear(node):
                count, complete = _tighten_operands(encoding, node, workers, deadline)
                solved, finished = solved + count, finished and complete
                left[node.name] = len(encoding.unstable(node)[0])
            encoding.add(node)
        worst = None
        if prop is not None:
            worst, count = _margins(encoding.branch(), bound_to(prop, graph), workers, deadline)
            solved += count
    shapes = {name: encoding.graph[name].type.shape for name in encoding.values}
    result = {
        name: (lower.reshape(shapes[name]), upper.reshape(shapes[name]))
        for name, (lower, upper) in ((name, encoding.bounds(name)) for name in encoding.values)
    }
    return Tightening(result, solved, time.time() - started, finished, left, worst)


def _tighten_operands(encoding: Encoding, node: Node, pool: Pool, deadline: float) -> tuple[int, bool]:
    """Tightens what `node` reads and is unstable; the number of linear programs, and whether that was all."""
    elements, knots = encoding.unstable(node)
    targets, knots = _variables(elements, knots)
    if not targets.size or time.time() >= deadline:
        return 0, not targets.size
    lower, upper = encoding.builder.bounds()
    parts: list[Indices] = []
    answers = pool.bounds(_tasks(encoding, targets, knots, (deadline, 2 * len(pool.workers)), parts))
    for part, answer in zip(parts, answers, strict=True):
        lower[part], upper[part] = answer.lower, answer.upper
    encoding.builder.restrict(targets, lower[targets], upper[targets])
    return sum(answer.solved for answer in answers), all(answer.finished for answer in answers)


def _margins(encoding: Encoding, prop: Property, pool: Pool, deadline: float) -> tuple[Floats, int]:
    """A lower bound of the largest margin of each disjunct, and the number of linear programs."""
    targets = np.array([largest(encoding, margins(encoding, disjunct)) for disjunct in prop.disjuncts], dtype=np.int64)
    bounds = encoding.builder.bounds()[0][targets]
    undecided = np.flatnonzero(~(bounds > 0))
    if not undecided.size:
        return bounds, 0
    cones = Cones(encoding.builder.build())
    tasks = []
    for part in np.array_split(targets[undecided], min(len(pool.workers), len(undecided))):
        cone, kept = cones.cut(part)
        places = np.searchsorted(kept, part)
        knots = np.full(len(part), np.nan)  # never settled
        tasks.append(LpTask(cone, places, cone.lower[places], cone.upper[places], knots, deadline, upper_too=False))
    answers = pool.bounds(tasks)
    bounds[undecided] = np.concatenate([answer.lower for answer in answers])
    return bounds, sum(answer.solved for answer in answers)


def _variables(elements: Affine, knots: Floats) -> tuple[Indices, Floats]:
    """The variables behind some elements, and their knots; NaN where a variable stands for several elements."""
    free = elements.scale != 0
    knots = (knots[free] - elements.shift[free]) / elements.scale[free]
    columns, first, counts = np.unique(elements.columns[free], return_index=True, return_counts=True)
    return columns, np.where(counts == 1, knots[first], np.nan)


def _tasks(
    encoding: Encoding, targets: Indices, knots: Floats, plan: tuple[float, int], parts: list[Indices]
) -> Iterator[LpTask]:
    """Sequences of linear programs, each over the cone of targets that share one; `plan` is the deadline and the
    number of sequences there should be at least. `parts` receives the targets of each."""
    deadline, wanted = plan
    cones = Cones(encoding.builder.build())
    knot_of = dict(zip(targets.tolist(), knots.tolist(), strict=True))
    groups = cones.groups(targets)
    pieces = math.ceil(wanted / len(groups))
    for group in groups:
        cone, kept = cones.cut(group)
        for part in np.array_split(group, min(pieces, len(group))):
            places = np.searchsorted(kept, part)
            wishes = np.array([knot_of[target] for target in part.tolist()])
            parts.append(part)
            yield LpTask(cone, places, cone.lower[places], cone.upper[places], wishes, deadline)

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
from irverify.backends.milp.model import Floats, Indices, MilpModel
from irverify.backends.milp.process import Pool
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.tasks import LpTask
from irverify.ir.graph import Graph, Node
from irverify.properties import Property

FOREVER = 1e9
ROUNDING = 1e-10
"""By how much, relative to 1 + its magnitude, a bound from a linear program is moved outward. Weak duality with
directed rounding makes it rigorous for the rows as they stand; this covers the rounding of the rows themselves."""


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
    nearer to zero first; where it settles the element, the other side is not asked for. Under a time limit every such
    operator has its share. Bounds come from duals by weak duality, and are rigorous for the rows as they stand.
    """
    started = time.time()
    deadline = started + (FOREVER if time_limit is None else time_limit)
    encoding = Encoding(graph, region, bounds, relaxed=True)
    left = dict[str, int]()
    with nullcontext(pool) if pool is not None else Pool(2) as workers:
        programs = _Programs(workers)
        waiting = sum(map(nonlinear, encoding.pending()))
        for node in encoding.pending():
            if nonlinear(node):
                # Twice its share of what is left, where the property has a share as well: most nodes need less.
                programs.deadline = time.time() + min(0.75, 2 / (waiting + 1)) * (deadline - time.time())
                waiting -= 1
                _tighten_operands(encoding, node, programs)
                left[node.name] = len(encoding.unstable(node)[0])
            encoding.add(node)
        programs.deadline = deadline
        worst = None if prop is None else _margins(encoding.branch(), bound_to(prop, graph), programs)
    shapes = {name: encoding.graph[name].type.shape for name in encoding.values}
    result = {
        name: (lower.reshape(shapes[name]), upper.reshape(shapes[name]))
        for name, (lower, upper) in ((name, encoding.bounds(name)) for name in encoding.values)
    }
    return Tightening(result, programs.solved, time.time() - started, programs.finished, left, worst)


def _tighten_operands(encoding: Encoding, node: Node, programs: _Programs) -> None:
    """Tightens what `node` reads and is unstable."""
    targets, knots = _variables(*encoding.unstable(node))
    if targets.size:
        lower, upper = programs.bounds(encoding.builder.build(), targets, knots)
        encoding.builder.restrict(targets, lower, upper)


def _margins(encoding: Encoding, prop: Property, programs: _Programs) -> Floats:
    """A lower bound of the largest margin of each disjunct."""
    targets = np.array([largest(encoding, margins(encoding, disjunct)) for disjunct in prop.disjuncts], dtype=np.int64)
    bounds = encoding.builder.bounds()[0][targets]
    undecided = np.flatnonzero(~(bounds > 0))
    if undecided.size:
        wishes = np.full(len(undecided), np.nan)
        bounds[undecided], _ = programs.bounds(encoding.builder.build(), targets[undecided], wishes, upper_too=False)
    return bounds


def _variables(elements: Affine, knots: Floats) -> tuple[Indices, Floats]:
    """The variables behind some elements, and their knots; NaN where a variable stands for several elements."""
    free = elements.scale != 0
    knots = (knots[free] - elements.shift[free]) / elements.scale[free]
    columns, first, counts = np.unique(elements.columns[free], return_index=True, return_counts=True)
    return columns, np.where(counts == 1, knots[first], np.nan)


@dataclass
class _Programs:
    """Runs linear programs until a deadline, and counts them."""

    pool: Pool
    deadline: float = 0.0
    solved: int = 0
    finished: bool = True

    def bounds(
        self, model: MilpModel, targets: Indices, knots: Floats, *, upper_too: bool = True
    ) -> tuple[Floats, Floats]:
        """Bounds of the variables `targets` (sorted), from those in `model` on; see `LpTask`."""
        old = model.lower[targets], model.upper[targets]
        if time.time() >= self.deadline:
            self.finished = False
            return old
        reduced = reduce(model, targets)
        places = np.searchsorted(reduced.kept, targets)
        with np.errstate(divide="ignore", invalid="ignore"):
            promise = np.minimum(knots - old[0], old[1] - knots) / (
                old[1] - old[0]
            )  # what is nearest to settling first
        parts: list[Indices] = []

        def tasks() -> Iterator[LpTask]:
            for group, cone, kept in _parts(Cones(reduced.model), places, 2 * len(self.pool.workers)):
                which = np.searchsorted(places, group)
                which = which[np.argsort(promise[which], kind="stable")]
                own = np.searchsorted(kept, places[which])
                parts.append(which)
                yield LpTask(cone, own, cone.lower[own], cone.upper[own], knots[which], self.deadline, upper_too)

        lower, upper = old[0].copy(), old[1].copy()
        for which, answer in zip(parts, self.pool.bounds(tasks()), strict=False):
            lower[which], upper[which] = answer.lower, answer.upper
            self.solved, self.finished = self.solved + answer.solved, self.finished and answer.finished
        lower, upper = lower - ROUNDING * (1 + np.abs(lower)), upper + ROUNDING * (1 + np.abs(upper))
        return np.maximum(lower, old[0]), np.minimum(upper, old[1])


def _parts(cones: Cones, targets: Indices, wanted: int) -> Iterator[tuple[Indices, MilpModel, Indices]]:
    """Targets that share a cone, their cone, and its variables, in `wanted` parts or more. What needs most of the model
    anyway is put together, so that one program after the other starts from the last one's basis."""
    groups = cones.groups(targets)
    pieces = math.ceil(wanted / len(groups))
    large: list[Indices] = []
    for group in groups:
        cone, kept = cones.cut(group)
        if len(kept) > len(cones.model.lower) / 2:
            large.append(group)
            continue
        yield from ((group[start::pieces], cone, kept) for start in range(min(pieces, len(group))))
    if large:
        together = np.sort(np.concatenate(large))
        cone, kept = cones.cut(together)
        yield from ((together[start::wanted], cone, kept) for start in range(min(wanted, len(together))))

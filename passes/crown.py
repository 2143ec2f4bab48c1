"""Linear bounds by backward propagation: CROWN, Fast-Lin and their kin.

Every value that a nonlinear operator reads is bounded first by intervals over its already tightened operands; backward
bounds are then asked only for the elements of each example that these leave open, and are intersected with the
intervals (a value outside its interval cannot occur, so that this is sound and never looser). The first affine layer
over a box needs none: its intervals are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from irverify.errors import UsageError
from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Input, Relu, Spec
from irverify.passes import flips, polish
from irverify.passes.backward import Context, Shortcut
from irverify.passes.flips import flipped
from irverify.passes.ibp import IBP
from irverify.passes.mosaics import mosaics
from irverify.passes.needs import Need, exact_ranges, needs, waited_at
from irverify.passes.polish import polished
from irverify.passes.propagate import Interval, interval_facts, tightened
from irverify.passes.relaxations import RELAXATIONS, Choice, RelaxRule, kinked_operands, relaxed
from irverify.passes.rules import RuleTable
from irverify.passes.straight import source
from irverify.passes.sweep import Sweep, much
from irverify.passes.view import View, widest
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State
from irverify.regions.base import rowwise
from irverify.rounding import round_down

CHUNK = 2**22
"""How many bytes of coefficients over one value are propagated at once: more gains nothing, and where the temporaries
take over 64 MiB the C library gives them back to the system each time."""
LIVE = 12
"""How many tensors of that size there are at once, about."""
MANY, LONG = 128, 2**20
"""So many open elements of a convolution, of so many bytes, are bounded first on the side that may decide them, the
others afterwards."""


@dataclass(frozen=True)
class LinearBounds(Analysis):
    """What analyses by backward rows share; subclasses fix the lines around nonlinear operators and where intermediate
    bounds come from."""

    single_walk = True
    rules: ClassVar[RuleTable[RelaxRule]] = RELAXATIONS
    choice: ClassVar[Choice] = "adaptive"
    intermediate: ClassVar[bool] = True
    """Intermediate bounds come from backward propagation too; else from intervals alone."""
    polish: ClassVar[bool] = False
    """Specifications are bounded along better lines too; see `polish` and `flips`."""
    memory: int = 4096
    """Megabytes that rows may take at once, about: more rows than fit are propagated one part after the other."""

    def run(self, state: State) -> Facts:
        if self.memory < 1:
            raise UsageError(f"expected memory of at least 1 megabyte, got {self.memory}", where=self.name)
        self.rules.resolve(state.graph)
        names = [node.name for node in state.graph.inputs]
        regions = dict(zip(names, state.given_regions(self.name), strict=True))
        walk = _Walk(Context(state.graph, regions), self, alone=state.keep is not None)
        facts = interval_facts(state, IBP, self.name, walk.refine, walk.read)
        return Facts(facts.bounds, statistics={"backward_rows": walk.rows}, leans=walk.leans)


@dataclass(frozen=True)
class Crown(LinearBounds):
    """Backward linear bounds, adaptive lower slope: 1 where u > -l, else 0 (Zhang et al. 2018).

    Which slope is taken is decided by the bounds that rows give by themselves, as there; lines are drawn between
    tighter ones where intervals are (see `relaxed`). A specification's rows are bounded by other lines too, and the
    better bound counts: around S-shaped functions some steps of ascent choose them (see `polish`), below ReLUs slopes
    are turned over once (see `flips`). Where derivatives are asked for, slopes are those of the first way.
    """

    name = "crown"
    polish = True


@dataclass(frozen=True)
class CrownZero(LinearBounds):
    """Backward linear bounds with lower slope 0: never looser than ibp on ReLU networks."""

    name = "crown-zero"
    choice = "zero"


@dataclass(frozen=True)
class FastLin(LinearBounds):
    """Backward linear bounds with parallel lines, the lower slope u / (u - l) (paper 2, sec. 3)."""

    name = "fast-lin"
    choice = "same"


@dataclass(frozen=True)
class CrownIbp(LinearBounds):
    """Backward linear bounds of the outputs, intermediate bounds by intervals (paper 2, sec. 5)."""

    name = "crown-ibp"
    intermediate = False


@once_a_graph
def _most(graph: Graph, stations: frozenset[str]) -> int:
    """How many bytes the rows of all elements of one of these values, and their negatives, take at most."""
    rows = 2 * max((graph[name].type.size for name in stations), default=0)
    return rows * widest(graph) * max(node.type.dtype.itemsize for node in graph)


@once_a_graph
def _ends(graph: Graph) -> frozenset[str]:
    """The inputs and their elementwise images."""
    return frozenset(node.name for node in graph if source(graph, node) is not None)


class _Walk:
    """Refines the intervals of one walk through a graph, by the rows of an analysis; `alone`: nobody asks for bounds of
    values before the outputs."""

    def __init__(self, context: Context, by: LinearBounds, *, alone: bool) -> None:
        graph = context.graph
        self.context = context
        self.rules = {node.name: rule for node, rule in by.rules.resolve(graph) if rule is not None}
        self.choice = by.choice
        self.needs = needs(graph, by.intermediate)
        self.chunk = min(CHUNK, by.memory * 2**20 // LIVE)
        self.rows = 0
        self.batch = max((region.batch for region in context.regions.values()), default=1)
        boxes = all(region.is_box for region in context.regions.values())
        self._exact = exact_ranges(graph) if boxes else frozenset()
        self._mosaics = mosaics(graph)
        adaptive = by.choice == "adaptive" and by.rules is RELAXATIONS  # others mean something else by lines
        self._kinked = kinked_operands(graph) if adaptive else frozenset[str]()
        self._stations = self.needs.stations.union(mosaic.operand for mosaic in self._mosaics.values())
        self._polish = by.polish and polish.worthwhile(graph)
        self._flips = by.polish and flips.worthwhile(graph)
        self.read = self._read()
        """The values whose bounds rows may meet on their way; None where that is not known."""
        self._forgets = alone and self.read is not None
        self._view: View | None = None
        self.leans: dict[str, Tensor] = {}

    def _read(self) -> frozenset[str] | None:
        graph = self.context.graph
        if self._mosaics or not flips.worthwhile(graph):
            return None
        looked_at = much(self.batch * _most(graph, self._stations))
        return waited_at(graph, self._stations if looked_at else frozenset()) | _ends(graph)

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Registers how rows pass through `node`, and tightens its interval where it is wanted."""
        if isinstance(node.op, Input):
            return interval
        if interval.exact:
            self.context.known[node.name] = interval.lower
            return interval
        operands = [results[name] for name in node.inputs]
        self.context.relaxed[node.name] = relaxed(self.rules[node.name], node, operands, self.choice, self.leans)
        if self._forgets and isinstance(node.op, Relu):
            self._draw(node, results)
        if node.name in self._mosaics:
            self._cut_short(node, results)
        need = self.needs.of(node.name)
        if need is None or node.name in self._exact:
            return interval
        if isinstance(node.op, Spec):
            return self._specification(node, interval, results)
        return self._elements(node, interval, need, results)

    def _draw(self, node: Node, results: Mapping[str, Interval]) -> None:
        """Makes the lines around a ReLU, so that nothing holds what they are made from; of one example, since rows of
        several meet lines of each and of all."""
        if self.batch == 1:
            self._whole(results).single(0).draw(node.name)
        if self.context.graph.users(node.inputs[0])[-1] == node.name:
            self.leans.pop(node.inputs[0], None)

    def _cut_short(self, node: Node, results: Mapping[str, Interval]) -> None:
        """Registers how rows pass a whole mosaic at once, where it has lines."""
        mosaic = self._mosaics[node.name]
        operand = results[mosaic.operand]
        lines = mosaic.lines(self.context.relaxed, operand, node.type.shape)
        if lines is not None:
            shortcut = Shortcut(mosaic.operand, lines, mosaic.bounds(operand, results))
            self.context.shortcuts[node.name] = shortcut

    def _elements(self, node: Node, interval: Interval, need: Need, results: Mapping[str, Interval]) -> Interval:
        """Both bounds of the elements that are open for some reader."""
        single = interval.lower.shape[0] == 1
        flat = torch.flatten if single else rowwise
        bounds = Interval(*(flat(side).clone() for side in interval))
        found = flat(need(*interval)).nonzero()
        owner, elements = (None, found.flatten()) if single else found.T.contiguous()
        places = elements if owner is None else (owner, elements)
        dropping = need if self.needs.pieces(node.name) else None
        count, lean = elements.shape[0], None
        if node.name in self._kinked:
            self.leans[node.name] = (interval.lower + interval.upper).contiguous()
            lean = flat(self.leans[node.name])
        if dropping is None or count < MANY or count * self._longest(interval) < LONG or len(node.type.shape) == 1:
            self._run(node, bounds, owner, elements, None, dropping, results, lean)
        else:
            # Most elements that can be decided are by one of their bounds, and it is plain by which.
            sides = (bounds.lower[places] + bounds.upper[places]).sign_()
            sides = sides + (sides == 0)
            if lean is not None:
                lean[places] = 0.0
            self._run(node, bounds, owner, elements, sides, dropping, results, lean)
            rest = dropping(*(side[places] for side in bounds))
            left = None if owner is None else owner[rest]
            self._run(node, bounds, left, elements[rest], -sides[rest], dropping, results, lean)
        return tightened(interval, *(side.reshape(interval.lower.shape) for side in bounds))

    def _longest(self, interval: Interval) -> int:
        """How many bytes a row takes at most, about."""
        return widest(self.context.graph) * interval.lower.element_size()

    def _run(
        self,
        node: Node,
        bounds: Interval,
        owner: Tensor | None,
        elements: Tensor,
        sides: Tensor | None,
        dropping: Need | None,
        results: Mapping[str, Interval],
        lean: Tensor | None = None,
    ) -> None:
        """Bounds `[batch, size]` of elements of their owners, or `[size]` of the one example's, tightened in place, and
        how these lean."""
        count = elements.shape[0]
        if count == 0:
            return
        view = self._whole(results)
        self.rows += count if sides is not None else 2 * count
        view = view.single(0) if owner is None else view
        Sweep(view, node.name, elements, bounds, sides, owner, self.chunk, lean).run(dropping, self._stations)

    def _whole(self, results: Mapping[str, Interval]) -> View:
        """What rows of all examples meet."""
        if self._view is None:
            self._view = View(self.context, None, results)
        return self._view

    def _specification(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Lower bounds of all rows of a specification; nobody asks for the upper ones."""
        batch, count = interval.lower.shape
        if batch * count == 0:
            return interval
        free = not interval.lower.requires_grad and not torch._C._are_functorch_transforms_active()
        if self._flips and free and not self.context.shortcuts:
            self.rows += batch * count
            found = round_down(flipped(self._whole(results), node, interval, self.chunk), interval.lower.dtype)
            return tightened(interval, torch.fmax(interval.lower, found), interval.upper)
        bounds = Interval(*(side.flatten().clone() if batch == 1 else side.clone() for side in interval))
        elements, owner = torch.arange(batch * count, device=bounds.lower.device), None
        if batch > 1:
            owner, elements = torch.div(elements, count, rounding_mode="floor"), elements % count
        climbs = self._polish and not bounds.lower.requires_grad
        if not climbs or self.context.shortcuts:  # which climbs do not take; they begin at these bounds
            self._run(node, bounds, owner, elements, torch.ones_like(bounds.lower).flatten(), None, results)
        else:
            self.rows += batch * count
        if climbs:
            found = polished(self.context, results, node, batch)
            bounds = bounds._replace(lower=torch.fmax(bounds.lower.reshape(found.shape), found))
        return tightened(interval, *(side.reshape(interval.lower.shape) for side in bounds))

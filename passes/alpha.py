"""Backward linear bounds with optimised lines (alpha-CROWN: Xu et al. 2021, "Fast and complete", sec. 3.1).

A row's lower bound over the region is a function of the free lines around the nonlinear operators that it passes. Each
choice gives a valid bound; gradient ascent looks for the best one, for each row on its own, from the lines that `crown`
takes. The best bound that was met counts, so that none is looser than that of `crown`.

With `intermediate` the bounds of the values in between are optimised first, in topological order: each for itself, and
only those that `crown` leaves open. Tighter ones leave less between all lines that come after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irverify.errors import UsageError
from irverify.ir.graph import Node
from irverify.ir.ops import Input, Spec
from irverify.passes.ascent import Schedule, ascend
from irverify.passes.backward import Context, Rows, identity_rows
from irverify.passes.course import Maps
from irverify.passes.crown import Crown
from irverify.passes.freedom import Free
from irverify.passes.hills import Flat, Hill, Pairs, Start, free_at
from irverify.passes.ibp import IBP
from irverify.passes.needs import Need, Needs, exact_ranges, needs
from irverify.passes.propagate import Interval, interval_facts, tightened
from irverify.passes.relaxations import RELAXATIONS, SpecRows, relaxed
from irverify.passes.shares import Shares
from irverify.passes.swept import SteeredView, Swept
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State
from irverify.regions.base import rowwise
from irverify.rounding import round_down

CHUNK = 2**26
"""How many bytes of coefficients over all values are optimised at once; more gains nothing."""
TOGETHER = 2**21
"""The same for dense rows of several examples: what fits into a cache."""
NARROW = 2**13
"""Bytes of all values of a network up to which dense rows of all examples together are optimised the fastest."""
LIVE = 16
"""How many tensors of that size there are at once, about: coefficients, choices, moments, and what gradients need."""


@dataclass(frozen=True)
class Alpha(Analysis):
    """Backward linear bounds whose lines are optimised by gradient ascent, from those of crown (Xu et al. 2021).

    `steps` steps of Adam, of size `lr` at first (a share of the range of each choice); `intermediate` steps for each of
    the bounds in between, where 0 leaves them as crown has them. A row of the outputs that is bounded above
    `stop_above` is not optimised further.
    """

    name = "alpha"
    steps: int = 20
    lr: float = 0.4
    intermediate: int = 0
    stop_above: float | None = None
    memory: int = 4096
    """Megabytes that rows may take at once, about: more rows than fit are optimised one part after the other."""

    def run(self, state: State) -> Facts:
        self._check()
        state.require(Crown(memory=self.memory))
        names = [node.name for node in state.graph.inputs]
        regions = dict(zip(names, state.given_regions(self.name), strict=True))
        walk = _Walk(self, Context(state.graph, regions), needs(state.graph, self.intermediate > 0), state.leans)
        with torch.no_grad():
            facts = interval_facts(state, IBP, self.name, walk.refine)
        return Facts(facts.bounds, statistics=walk.statistics)

    def _check(self) -> None:
        if self.steps < 0 or self.intermediate < 0:
            raise UsageError(f"expected steps >= 0, got {self.steps} and {self.intermediate}", where=self.name)
        if not 0 < self.lr < math.inf:
            raise UsageError(f"expected a step size lr > 0, got {self.lr}", where=self.name)
        if self.memory < 1:
            raise UsageError(f"expected memory of at least 1 megabyte, got {self.memory}", where=self.name)


@dataclass
class _Walk:
    """Refines the bounds that a walk over intervals, which `crown` has tightened already, comes by."""

    options: Alpha
    context: Context
    needs: Needs
    leans: Mapping[str, Tensor]
    free: dict[str, Free | Shares] = field(default_factory=dict)
    statistics: dict[str, int | float] = field(
        default_factory=lambda: {"backward_rows": 0, "steps": 0, "stopped_early": 0}
    )

    def __post_init__(self) -> None:
        boxes = all(region.is_box for region in self.context.regions.values())
        self._exact = exact_ranges(self.context.graph) if boxes else frozenset()
        devices = [region.device for region in self.context.regions.values()]
        self._start = Start(self.context, self.free, Maps(devices[0]))

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Registers how rows pass through `node` and what is free there, and tightens its interval where it counts."""
        if isinstance(node.op, Input):
            return interval
        if interval.exact:
            self.context.known[node.name] = interval.lower
            return interval
        self._register(node, [results[name] for name in node.inputs])
        need = self.needs.of(node.name)
        if need is None or node.name in self._exact or not self.free:
            return interval
        if node.name in self.context.graph.outputs:
            return self._output(node, interval)
        return self._between(node, interval, need, results)

    def _register(self, node: Node, operands: list[Interval]) -> None:
        rule = RELAXATIONS.find(type(node.op))
        assert rule is not None  # crown has checked the graph
        lines = self.context.relaxed[node.name] = relaxed(rule, node, operands, "adaptive", self.leans)
        free = free_at(node, operands, lines)
        if free is not None:
            self.free[node.name] = free

    def _output(self, node: Node, interval: Interval) -> Interval:
        """Both bounds of all elements; of a specification the lower ones, nobody asks for the others."""
        batch, count = interval.lower.shape[0], node.type.size
        if batch * count == 0:
            return interval
        if isinstance(node.op, Spec):
            return tightened(interval, self._margins(node, interval.lower), interval.upper)
        owner = torch.arange(batch, device=interval.lower.device).repeat_interleave(count)
        elements = torch.arange(count, device=owner.device).repeat(batch)
        low, high = self._flat(node.name, identity_rows(interval.lower, owner, elements)).chunk(2)
        return tightened(interval, low.reshape(interval.lower.shape), -high.reshape(interval.upper.shape))

    def _margins(self, node: Node, like: Tensor) -> Tensor:
        """Lower bounds of all rows of a specification, `[batch, spec]` like these."""
        batch, spec = like.shape[0], self.context.relaxed[node.name]
        assert isinstance(spec, SpecRows)
        bounds = round_down(spec.offset, like.dtype).expand(like.shape).clone()
        owner, elements = spec.open(batch).nonzero(as_tuple=True)
        if owner.shape[0] > 0:
            identity = torch.eye(node.type.size, dtype=like.dtype, device=like.device)
            bounds[owner, elements] = self._flat(node.name, Rows(identity[elements], owner, batch))
        return bounds

    def _flat(self, name: str, rows: Rows) -> Tensor:
        """The best lower bounds of rows, which leave by example as far as that is known."""
        options, best, open_ = self.options, [], set[int]()
        schedule = Schedule(options.steps, options.lr)
        step = max(1, self._chunk(rows.coefficients, TOGETHER))
        each = max(1, rows.owner.shape[0] // rows.batch)
        step -= step % each if step > each else 0  # whole examples: what is free in any is carried along by all
        for start in range(0, rows.owner.shape[0], step):
            part = Rows(rows.coefficients[start : start + step], rows.owner[start : start + step], rows.batch)
            climbed = ascend(Flat(self._start, name, part, options.stop_above), schedule)
            best.append(climbed.best)
            open_.update(part.owner[climbed.unfinished].tolist())
            self._count(part.owner.shape[0], climbed.steps)
        self.statistics["stopped_early"] += rows.batch - len(open_)
        return torch.cat(best)

    def _between(self, node: Node, interval: Interval, need: Need, results: Mapping[str, Interval]) -> Interval:
        """Both bounds of the elements that are open for some reader."""
        open_ = rowwise(need(*interval))
        flat = Interval(*(rowwise(side).clone() for side in interval))
        schedule = Schedule(self.options.intermediate, self.options.lr)
        best = Interval(flat.lower.clone(), flat.upper.clone())
        for hill, places in self._hills(node, interval.lower, open_, flat, need, results):
            climbed = ascend(hill, schedule)
            low, high = climbed.best.chunk(2)
            best.lower[places], best.upper[places] = low, -high
            self._count(2 * low.shape[0], climbed.steps)
        shape = interval.lower.shape
        return tightened(interval, best.lower.reshape(shape), best.upper.reshape(shape))

    def _hills(
        self, node: Node, like: Tensor, open_: Tensor, flat: Interval, need: Need, results: Mapping[str, Interval]
    ) -> Iterator[tuple[Hill, tuple[Tensor, Tensor]]]:
        """What is climbed for the open elements `[batch, elements]` of a node, and their places. Rows of networks with
        few values are dense, of all examples together; those of others are as small as windows and go one example
        after the other."""
        owner, elements = open_.nonzero(as_tuple=True)
        if self._chunk(like, NARROW) > 0:
            step = max(1, self._chunk(like, TOGETHER) // 2)
            for pairs in zip(owner.split(step), elements.split(step), strict=True):
                if pairs[0].shape[0] > 0:
                    yield Pairs(self._start, node.name, like, pairs, flat, need), pairs
            return
        step = max(1, self._chunk(like, CHUNK) // 2)
        for example in owner.unique().tolist():
            mine = Interval(flat.lower[example], flat.upper[example])
            for part in elements[owner == example].split(step):
                view = SteeredView(self._start, example, results)
                yield Swept(view, node.name, part, mine, need), (torch.full_like(part, example), part)

    def _chunk(self, like: Tensor, most: int) -> int:
        """How many rows take up to so many bytes, all values together; none where one takes more."""
        size = sum(node.type.size for node in self.context.graph) * like.element_size()
        return min(most, self.options.memory * 2**20 // LIVE) // size

    def _count(self, rows: int, steps: int) -> None:
        self.statistics["backward_rows"] += rows
        self.statistics["steps"] += steps

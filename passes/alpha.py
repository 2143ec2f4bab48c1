"""Backward linear bounds with optimised lines (alpha-CROWN: Xu et al. 2021, "Fast and complete", sec. 3.1).

A row's lower bound over the region is a function of the free lines around the nonlinear operators that it passes. Each
choice gives a valid bound; gradient ascent looks for the best one, for each row on its own, from the lines that `crown`
takes. The best bound that was met counts, so that none is looser than that of `crown`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Input, Spec
from irverify.passes.ascent import Ascent, Schedule
from irverify.passes.backward import Context, Rows, identity_rows
from irverify.passes.freedom import FREEDOM, Free
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.passes.relaxations import RELAXATIONS, Relaxation
from irverify.pipeline.base import Analysis
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

CHUNK = 2**28
"""How many bytes of choices are optimised at once."""


@dataclass(frozen=True)
class Alpha(Analysis):
    """Backward linear bounds whose lines are optimised by gradient ascent, from those of crown (Xu et al. 2021).

    `steps` steps of Adam with step size `lr`, a share of the range of each choice; a row that is bounded above
    `stop_above` is not optimised further.
    """

    name = "alpha"
    steps: int = 20
    lr: float = 0.5
    stop_above: float | None = None

    def run(self, state: State) -> Facts:
        state.require("crown")
        names = [node.name for node in state.graph.inputs]
        regions = dict(zip(names, state.given_regions(self.name), strict=True))
        walk = _Walk(Context(state.graph, regions), Schedule(self.steps, self.lr, self.stop_above))
        with torch.no_grad():
            facts = interval_facts(state, IBP, self.name, walk.refine)
        return Facts(facts.bounds, statistics=walk.statistics())


@dataclass
class _Walk:
    """Refines the bounds of the outputs at the end of a walk over intervals that `crown` has tightened."""

    context: Context
    schedule: Schedule
    free: dict[str, Free] = field(default_factory=dict)
    rows: int = 0
    steps: int = 0
    early: int = 0

    def refine(self, node: Node, interval: Interval, results: Mapping[str, Interval]) -> Interval:
        """Registers how rows pass through `node` and what is free there, and tightens it where it is an output."""
        if isinstance(node.op, Input):
            return interval
        if interval.exact:
            self.context.known[node.name] = interval.lower
            return interval
        operands = [results[name] for name in node.inputs]
        rule = RELAXATIONS.find(type(node.op))
        assert rule is not None  # crown has checked the graph
        relaxed = rule(node, operands, "adaptive")
        self.context.relaxed[node.name] = relaxed
        freedom = FREEDOM.find(type(node.op))
        if freedom is not None and isinstance(relaxed, Relaxation):
            self.free[node.name] = freedom(node, operands[0], relaxed)
        return self._tightened(node, interval) if node.name in self.context.graph.outputs else interval

    def _tightened(self, node: Node, interval: Interval) -> Interval:
        """Both bounds of all elements; of a specification the lower ones, nobody asks for the others."""
        batch, count = interval.lower.shape[0], interval.lower[0].numel()
        device = interval.lower.device
        owner = torch.arange(batch, device=device).repeat_interleave(count)
        elements = torch.arange(count, device=device).repeat(batch)
        rows = identity_rows(interval.lower, owner, elements)
        if isinstance(node.op, Spec):
            rows = Rows(rows.coefficients[: owner.shape[0]], owner, batch)
        found = self._optimised(node.name, rows)
        low = found[: owner.shape[0]].reshape(interval.lower.shape)
        high = -found[owner.shape[0] :].reshape(interval.lower.shape) if not isinstance(node.op, Spec) else None
        lower = torch.where(low > interval.lower, low, interval.lower)
        if high is None:
            return Interval(torch.minimum(lower, interval.upper), torch.maximum(lower, interval.upper))
        upper = torch.where(high < interval.upper, high, interval.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def _optimised(self, name: str, rows: Rows) -> Tensor:
        ascent = Ascent(self.context, name, self.free, self.schedule)
        size = sum(node.type.size for node in self.context.graph) * rows.coefficients.element_size()
        step = max(1, CHUNK // (8 * size))
        owners, best = [], []
        for start in range(0, rows.owner.shape[0], step):
            part = Rows(rows.coefficients[start : start + step], rows.owner[start : start + step], rows.batch)
            best.append(ascent.best(part))
            owners.append(ascent.unfinished)
        self.rows += rows.owner.shape[0]
        self.steps += ascent.steps
        self.early += rows.batch - int(torch.cat(owners).unique().numel())
        return torch.cat(best)

    def statistics(self) -> dict[str, int | float]:
        return {"backward_rows": self.rows, "steps": self.steps, "stopped_early": self.early}

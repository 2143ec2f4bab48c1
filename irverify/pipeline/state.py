"""The state of a run: the graph as rewritten so far, the regions, and every fact that is known about its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.pipeline.base import Analysis, Estimator, parse_passes
from irverify.pipeline.facts import GIVEN, Bounds, Estimate, Facts, Stability
from irverify.regions import Region
from irverify.rounding import round_down, round_up

GivenBounds: TypeAlias = "Bounds | tuple[Tensor, Tensor]"
"""Bounds that a user injects: (lower, upper), each `[batch, *shape]` or broadcasting to it."""
DEFAULT_ANALYSIS = "ibp"
"""What is asked for bounds that nobody has computed."""


@dataclass(frozen=True)
class Timing:
    """What one pass took: seconds; `memory`, the bytes by which it raised the peak (of the CUDA allocator where that is
    in use, else of the process; 0 where it stayed below an earlier peak); numbers such as nodes before and after."""

    step: str
    seconds: float
    memory: int
    statistics: Mapping[str, int | float]


@dataclass
class State:
    """What a pipeline works on and what it leaves.

    `regions` has one region for each network input (None: the pipeline runs without, and analyses are a usage error);
    `operands` the runtime operands `[batch, ...]` by name; `bounds` the tightest known bounds by the name of the value;
    `stability` labels by the name of the activation; `estimates` the latest guesses by the name of the value, which
    nothing that computes bounds reads; `leans` how values lean (see `Facts`); `timings` one entry for each pass that
    ran, nested ones first. `keep` names the values that bounds are asked for, None: all.
    """

    graph: Graph
    regions: tuple[Region, ...] | None = None
    operands: Mapping[str, Tensor] = field(default_factory=dict)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    stability: dict[str, Stability] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    leans: dict[str, Tensor] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)
    keep: frozenset[str] | None = None
    retired: set[str] = field(default_factory=set)
    """Names of values that rewrites have removed: no later value may have one, since what is known by name outlives a
    run."""
    execute: Callable[[Analysis, State], Facts] | None = None
    """Runs an analysis; the pass manager puts its timing in here."""
    _results: dict[Analysis, Facts] = field(default_factory=dict)
    _latest: Analysis | None = None

    @without_autocast()
    def require(self, analysis: Analysis | str, *, fresh: bool = False) -> Facts:
        """The facts of an analysis on this graph and these regions: from the cache, or computed now.

        Its bounds are intersected with those that are known. An analysis is the same one if its options are; with
        `fresh` it runs again if another one has added to what is known.
        """
        (wanted,) = parse_passes(analysis)
        if not isinstance(wanted, Analysis):
            raise UsageError(f"expected an analysis, got the rewrite {wanted}")
        if wanted not in self._results or (fresh and wanted != self._latest):
            self.given_regions(wanted.name)
            facts = wanted.run(self) if self.execute is None else self.execute(wanted, self)
            if isinstance(wanted, Estimator) and (facts.bounds or facts.stability):
                raise TypeError(f"estimator {wanted.name} gave bounds or stability, expected estimates only")
            self._merge(facts)
            self._results[wanted] = facts
            self._latest = wanted
        return self._results[wanted]

    def bounds_of(self, name: str) -> Bounds:
        """The tightest known bounds of a value; where there are none, interval bound propagation is asked for them."""
        if name not in self.bounds:
            self.require(DEFAULT_ANALYSIS)
        return self.bounds[name]

    def given_regions(self, name: str) -> tuple[Region, ...]:
        """The regions. Raises UsageError, naming the pass that needs them, where there are none."""
        if self.regions is None:
            raise UsageError(f"pass {name} needs an input region and got none", hint="give a property, or data and eps")
        missing = [node.name for node in self.graph.operands if node.name not in self.operands]
        if missing:
            raise UsageError(f"pass {name} needs the runtime operands {', '.join(missing)}", hint="give operands={...}")
        return self.regions

    @property
    def batch(self) -> int:
        return self.regions[0].batch if self.regions else 1

    def replace_graph(self, graph: Graph, *, keeps_values: bool) -> None:
        """Goes on with a rewritten graph.

        Bounds survive by name where names keep their values, those of inputs always; everything else is dropped.
        """
        self._results.clear()
        self._latest = None
        self.stability, self.estimates = {}, {}
        self.retired |= {node.name for node in self.graph if node.name not in graph}
        kept = {node.name for node in (graph.nodes if keeps_values else graph.inputs)}
        self.bounds = {
            name: bounds
            for name, bounds in self.bounds.items()
            if name in kept and graph[name].type == self.graph[name].type
        }
        self.leans = {name: lean for name, lean in self.leans.items() if name in self.bounds}
        self.graph = graph

    def adopt(self, found: Mapping[str, Bounds]) -> None:
        """Bounds of values by name, intersected with those that are known."""
        for name, bounds in found.items():
            bounds.check(name)
            known = self.bounds.get(name)
            self.bounds[name] = bounds if known is None else bounds.meet(known, name, self.graph.coarsest)

    def _merge(self, facts: Facts) -> None:
        self.adopt(facts.bounds)
        self.stability.update(facts.stability)
        self.estimates.update(facts.estimates)
        self.leans.update(facts.leans)


def inject(state: State, given: Mapping[str, GivenBounds]) -> None:
    """Adds bounds that a user vouches for. Raises UsageError where they fit no value, are crossed, or NaN."""
    for name, pair in given.items():
        if name not in state.graph:
            raise UsageError(f"bounds are given for %{name}, which is no value of graph {state.graph.name!r}")
        lower, upper = (pair.lower, pair.upper) if isinstance(pair, Bounds) else pair
        node = state.graph[name]
        expected = (state.batch, *node.type.shape)
        try:
            lower, upper = (torch.as_tensor(side).expand(expected) for side in (lower, upper))
        except RuntimeError:
            shapes = f"{list(lower.shape)} and {list(upper.shape)}"
            raise UsageError(f"expected bounds {list(expected)} for %{name}, got {shapes}") from None
        bounds = Bounds(round_down(lower, node.type.dtype), round_up(upper, node.type.dtype), GIVEN)
        bounds.check(name)
        known = state.bounds.get(name)
        state.bounds[name] = bounds if known is None else bounds.meet(known, name, state.graph.coarsest)

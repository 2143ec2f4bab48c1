"""Analyses by linear and by mixed-integer programs (paper 1, app. D.2; Tjeng et al. 2019, sec. 4.2)."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from irverify.backends.milp.encoding import Encoding
from irverify.backends.milp.examples import Example, Pair, examples, joined
from irverify.backends.milp.integer_programs import IntegerPrograms
from irverify.backends.milp.process import Pool
from irverify.backends.milp.programs import LinearPrograms
from irverify.backends.milp.reserve import RESERVE
from irverify.backends.milp.tightening import Goals, Outputs, Tightening, walk
from irverify.backends.milp.witnesses import Witnesses
from irverify.cores import usable_cores
from irverify.errors import UsageError
from irverify.ir.ops import Spec
from irverify.pipeline.base import Analysis, parse_passes
from irverify.pipeline.facts import Facts
from irverify.pipeline.state import State

LINEAR_SHARE = 0.5
"""The part of its time that milp-tighten gives to linear programs first."""


@dataclass(frozen=True)
class ByPrograms(Analysis):
    """What analyses by programs share: one example after the other, over the bounds that are known.

    `time` is in seconds for the whole batch (None: no limit); every example has an equal part of what is left, and what
    that does not suffice for keeps the bounds it has. `workers` is the number of solver processes (None: one for each
    processor).
    """

    time: float | None = None
    workers: int | None = None

    def run(self, state: State) -> Facts:
        self._check()
        regions = state.given_regions(self.name)
        started = time.monotonic()
        self._prepare(state)
        goals = Goals(outputs="lower" if isinstance(state.graph[state.graph.outputs[0]].op, Spec) else "both")
        found: list[dict[str, Pair]] = []
        statistics = {"programs": 0, "unstable": 0, "out_of_time": 0}
        with RESERVE.borrow(self.workers or usable_cores()) as pool:
            for number, example in enumerate(examples(state, regions)):
                left = None if self.time is None else self.time - (time.monotonic() - started)
                limit = None if left is None else max(0.0, left) / (state.batch - number)
                result = self._tightened(example, goals, pool, limit, statistics)
                found.append(result.bounds)
                statistics["programs"] += result.solved
                statistics["unstable"] += sum(result.open.values())
                statistics["out_of_time"] += not result.finished
        return Facts(joined(state, found, self.name), statistics=statistics)

    @abstractmethod
    def _prepare(self, state: State) -> None:
        """Asks for what the programs rest on."""

    @abstractmethod
    def _tightened(
        self, example: Example, goals: Goals, pool: Pool, limit: float | None, statistics: dict[str, int]
    ) -> Tightening:
        """The bounds of one example; `limit` in seconds."""

    def _check(self) -> None:
        if self.time is not None and not self.time >= 0:
            raise UsageError(f"expected a time of at least 0 seconds, got {self.time}", where=self.name)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"expected one worker or more, got {self.workers}", where=self.name)


@dataclass(frozen=True)
class Lp(ByPrograms):
    """Bounds of the outputs by linear programs over the triangle relaxation, with the bounds in between of crown.

    Each output is bounded from below and above (a specification from below) over `y >= 0, y >= x, y <= u (x - l) /
    (u - l)` for every unstable ReLU, and what is alike for other operators; rigorous, from duals. `intermediate` is the
    analysis that bounds the values in between; tighter bounds that are known already count as well. Never looser than
    fast-lin, crown and alpha over the same bounds, and not tighter than the network's own range.
    """

    name = "lp"
    intermediate: str = "crown"

    def _prepare(self, state: State) -> None:
        given = parse_passes(self.intermediate)
        if len(given) != 1 or not isinstance(given[0], Analysis):
            message = f"expected one analysis for option intermediate, got {self.intermediate!r}"
            raise UsageError(message, where=self.name)
        state.require(given[0])

    def _tightened(
        self, example: Example, goals: Goals, pool: Pool, limit: float | None, statistics: dict[str, int]
    ) -> Tightening:
        encoding = Encoding(example.graph, example.regions, example.known, relaxed=True)
        return walk(encoding, LinearPrograms(pool), replace(goals, intermediate=False), limit)


@dataclass(frozen=True)
class LpTighten(ByPrograms):
    """Bounds of every unstable pre-activation by linear programs, layer by layer, and then of the outputs.

    In topological order, over the triangle relaxation of everything before, whose bounds have been tightened already;
    only for elements that crown leaves unstable, and the side nearer to the knot first. Rigorous, from duals. With
    `signs` no more is asked than which sign is certain: sides that a point of the relaxation, met on the way, shows to
    be open are left alone.
    """

    name = "lp-tighten"
    signs: bool = False

    def _prepare(self, state: State) -> None:
        state.require("crown")

    def _tightened(
        self, example: Example, goals: Goals, pool: Pool, limit: float | None, statistics: dict[str, int]
    ) -> Tightening:
        encoding = Encoding(example.graph, example.regions, example.known, relaxed=True)
        return walk(encoding, LinearPrograms(pool), replace(goals, signs=self.signs), limit)


@dataclass(frozen=True)
class MilpTighten(ByPrograms):
    """Bounds of unstable pre-activations and of outputs by mixed-integer programs: exact, but for a margin.

    Only for elements that lp-tighten, which runs first, leaves unstable, over the exact encoding of everything before.
    One program for each side takes `limit` seconds at most; the solver's dual bound counts, moved outward by 1e-5 of
    the largest magnitude that occurs (at least 1), unless an execution contradicts it. That is as certain as the
    solver, not rigorous. With `signs` sides that an execution, found by ascent, shows to be open are
    left alone, and the outputs are left to lp-tighten.
    """

    name = "milp-tighten"
    signs: bool = False
    limit: float = 5.0
    solver: Literal["scip", "highs"] = "scip"

    def _prepare(self, state: State) -> None:
        state.require(LpTighten(None if self.time is None else LINEAR_SHARE * self.time, self.workers, self.signs))

    def _tightened(
        self, example: Example, goals: Goals, pool: Pool, limit: float | None, statistics: dict[str, int]
    ) -> Tightening:
        programs = IntegerPrograms(pool, self.limit, self.solver)
        outputs: Outputs = "none" if self.signs else goals.outputs
        witnesses = Witnesses(example.graph, example.regions)
        goals = replace(goals, outputs=outputs, signs=self.signs, witnesses=witnesses)
        result = walk(Encoding(example.graph, example.regions, example.known), programs, goals, limit)
        for name, count in (("limited", programs.limited), ("wrong", programs.wrong), ("failed", programs.failed)):
            statistics[name] = statistics.get(name, 0) + count
        return result

    def _check(self) -> None:
        super()._check()
        if not 0 < self.limit < math.inf:
            raise UsageError(f"expected a limit of more than 0 seconds a program, got {self.limit}", where=self.name)

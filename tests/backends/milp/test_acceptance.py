"""Every solver answers as enumeration does, on random small networks of every operator with an exact encoding.

IRVERIFY_NETS=500 takes so many networks instead of a few; IRVERIFY_FIRST_NET is the seed of the first one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

from irverify.backends.milp.formulation import Formulation, Program, formulate
from irverify.backends.milp.integers import whole
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from tests.backends.milp.enumeration import Enumeration, TooMany
from tests.backends.milp.small_nets import SmallNet
from tests.backends.milp.test_formulation import replay

LONG = "IRVERIFY_NETS" in os.environ
NETS, FIRST = int(os.environ.get("IRVERIFY_NETS", "15")), int(os.environ.get("IRVERIFY_FIRST_NET", "0"))
BUDGET = 200 if LONG else 16
"""Networks with more patterns are left out."""
TARGETS = (-1.0, -0.1, -1e-2, -1e-3, -1e-4, -1e-5, -1e-6, 0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""The smallest margins that properties are shifted to."""
EXACTNESS = 1e-7
"""How exact enumeration is, relative to the values."""
OPTIONS = SolveOptions(time_limit=30.0, seed=0)
CP_SAT_OPTIONS = SolveOptions(time_limit=10.0 if LONG else 0.5, seed=0)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


@dataclass(frozen=True, eq=False)
class Question:
    """A network with a property whose smallest margin is `margin`, attained at `point`, by enumeration."""

    seed: int
    margin: float
    point: np.ndarray
    formulation: Formulation

    @property
    def error(self) -> float:
        return EXACTNESS * (self.formulation.tolerance / 1e-5)

    @cached_property
    def program(self) -> Program:
        return self.formulation.program("margin")

    def verdict(self, solution: Solution) -> str:
        """What the answer to `program` shows."""
        if self.program.refuted(solution):
            return "verified"
        found = solution.x is not None and replay(self.formulation, solution.x) <= 0
        return "falsified" if found else "unknown"

    def check(self, verdict: str, room: float) -> None:
        """A verdict is right, and is given where the margin leaves room."""
        where = (self.seed, self.margin, verdict, room)
        assert verdict != "verified" or self.margin > -self.error, where
        assert verdict != "falsified" or self.margin <= self.error, where
        assert verdict == "verified" or not self.margin > room, where
        assert verdict == "falsified" or not self.margin < -room, where


def questions() -> Iterator[Question]:
    for seed in range(FIRST, FIRST + NETS):
        net = SmallNet(seed)
        try:
            margin, point = Enumeration(net.graph, [net.region], BUDGET).minimum(net.prop)
        except TooMany:
            continue
        target = TARGETS[seed % len(TARGETS)]
        prop = net.shifted(target - margin)
        yield Question(seed, target, point, formulate(net.graph, net.region, prop))


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    result = list(questions())
    assert len(result) > 0.5 * NETS
    return result


@pytest.mark.parametrize("solver", ["scip", "highs"])
def test_solvers_in_floating_point(solver: SolverName, worker: Worker, asked: list[Question]) -> None:
    """Right wherever the margin exceeds the tolerance (and HiGHS's gap, a ten-thousandth of it); else never wrong."""
    counts: Counter[str] = Counter()
    for question in asked:
        solution = solve(question.program.model, solver, OPTIONS, worker=worker)
        assert solution.status == "optimal", question.seed
        verdict = question.verdict(solution)
        question.check(verdict, 1.01 * question.formulation.tolerance + question.error)
        counts[verdict] += 1
    print(solver, len(asked), dict(counts))


def test_cp_sat(worker: Worker, asked: list[Question]) -> None:
    """Never infeasible where a point violates; right wherever the margin exceeds the computed slack."""
    counts: Counter[str] = Counter()
    slacks = []
    for question in asked:
        feasible = question.formulation.program("feasibility", tolerance=0.0)
        slack = feasible.resolution
        solution = solve(feasible.model, "cp-sat", CP_SAT_OPTIONS, worker=worker)
        if solution.status == "no_solution":
            counts["out of time"] += 1
            continue
        assert solution.proves and solution.status in ("optimal", "feasible", "infeasible")
        assert solution.status != "infeasible" or question.margin > -question.error, question.seed
        assert solution.status == "infeasible" or not question.margin > slack + question.error, (question.seed, slack)
        counts[f"feasibility {solution.status}"] += 1
        slacks.append(slack / question.formulation.tolerance)
        worst = solve(question.program.model, "cp-sat", CP_SAT_OPTIONS, worker=worker)
        assert worst.dual_bound <= question.margin + question.error, question.seed
        if worst.status == "optimal":
            verdict = question.verdict(worst)
            question.check(verdict, 2 * question.program.resolution + question.error)
            counts[verdict] += 1
    spread = np.percentile(slacks or [np.nan], [50, 90, 100]).round(2)  # on a very busy machine all are out of time
    print("cp-sat", len(asked), dict(counts), "slack / tolerance:", spread)


def test_integer_programs_hold_every_execution(asked: list[Question]) -> None:
    """Rounded, any execution keeps every row, in exact arithmetic; no objective is below the bound."""
    rng = np.random.default_rng(0)
    for question in asked:
        program, lower, upper = question.program, *question.formulation.encoding.builder.bounds()
        around, count = whole(program.model), len(question.point)
        for point in (question.point, *(lower[:count] + rng.random(count) * (upper - lower)[:count] for _ in range(5))):
            x = program.hint([point[:count]])
            rounded = around.rounded(x)
            assert (np.abs(rounded - around.scale * x) <= 0.5 + 1e-6).all()
            activity = around.rows @ rounded
            assert (activity >= around.row_lower).all() and (activity <= around.row_upper).all(), question.seed
            assert around.bound(float(around.objective @ rounded)) <= float(program.model.objective @ x)

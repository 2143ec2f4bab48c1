"""The exact stage: what it takes for a proof, whatever a solver says, and what is told of a margin that stays open."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from irverify.backends.milp.tasks import Solution
from irverify.ir.graph import Graph
from irverify.ir.text import parse_graph
from irverify.pipeline import run
from irverify.properties import Property, linear
from irverify.regions import Box
from irverify.verify import exact
from irverify.verify.driver import problem_of, working
from irverify.verify.exact import search_exactly, tighten_bounds
from irverify.verify.problem import Clock, Options, Problem

SUM = """
graph "sum" {
  %x: f64[2] = input()
  %a = linear(%x) {weight=tensor([[1, 1], [1, -1]])}
  %r = relu(%a)
  %y = linear(%r) {weight=tensor([[1, 1]])}
  return %y
}
"""
"""y = relu(x_0 + x_1) + relu(x_0 - x_1): at most 2 over the unit box, at most 3 by triangles."""


def asked(limit: float) -> Problem:
    """y <= limit, with the bounds of intervals."""
    graph: Graph = parse_graph(SUM)
    prop: Property = linear([[-1.0]], [limit])
    region = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    problem = problem_of(graph, working(graph), region, prop)
    problem.learn(run(problem.work, "ibp", problem.regions).bounds)
    problem.tolerance = 1e-9
    return problem


def clock(solver: str = "auto", timeout: float | None = 60.0) -> Clock:
    return Clock(Options(timeout=timeout, solver=solver, threads=1))


def test_the_relaxation_refutes_and_is_a_proof() -> None:
    problem = asked(3.5)
    tighten_bounds(problem, clock())
    margin, tolerance = problem.proofs["lp"]
    assert problem.decided and margin == pytest.approx(0.5, abs=1e-6) and tolerance == 1e-9


@pytest.mark.parametrize("solver", ["auto", "scip", "highs", "cp-sat"])
@pytest.mark.parametrize(("limit", "holds"), [(2.5, True), (1.5, False)])
def test_the_search_decides(solver: str, limit: float, holds: bool) -> None:
    problem, time = asked(limit), clock(solver)
    tighten_bounds(problem, time)
    assert not problem.decided and problem.floor == pytest.approx(limit - 3, abs=1e-6)
    search_exactly(problem, time)
    assert problem.decided
    assert (problem.counterexample is None) == holds
    assert not holds or any(name.startswith("milp") for name in problem.proofs)


def answering(**said: Any) -> Callable[..., Solution]:
    def solve(*_: object, **__: object) -> Solution:
        given = {"status": "feasible", "objective": None, "dual_bound": -math.inf, "x": None, **said}
        return Solution(**given, seconds=0.0, solver="scip")

    return solve


@pytest.mark.parametrize(
    "said",
    [
        {"status": "infeasible"},
        {"status": "infeasible", "dual_bound": math.inf},
        {"status": "unknown", "dual_bound": 5.0},
        {"status": "no_solution", "dual_bound": 5.0},
        {"status": "optimal", "objective": 1e-6, "dual_bound": 1e-6, "x": np.zeros(64)},
        {"status": "optimal", "objective": 1.0, "dual_bound": math.nan, "x": np.zeros(64)},
    ],
)
def test_what_proves_nothing(said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    problem, time = asked(2.5), clock()
    tighten_bounds(problem, time)
    monkeypatch.setattr(exact, "solve", answering(**said))
    search_exactly(problem, time)
    assert not problem.decided and not problem.proofs and problem.reason


def test_what_is_left_at_the_limit_is_the_bound_of_the_relaxation(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, time = asked(2.5), clock()
    tighten_bounds(problem, time)
    monkeypatch.setattr(exact, "solve", answering(status="no_solution"))
    search_exactly(problem, time)
    assert problem.floor == pytest.approx(-0.5, abs=1e-6)
    assert "the smallest margin is at least -0.5" in time.stages[-1].outcome


def test_the_search_raises_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, time = asked(1.5), clock()
    tighten_bounds(problem, time)
    point = np.zeros(64)  # does not replay
    monkeypatch.setattr(exact, "solve", answering(objective=0.4, dual_bound=-0.75, x=point))
    search_exactly(problem, time)
    assert problem.floor is not None and -0.751 <= problem.floor <= -0.75
    assert not problem.decided

"""A solve that only has to tell the sign of the optimum ends early, and its bound holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import SolverName
from tests.backends.milp.test_solvers import hard

OPTIONS = SolveOptions(time_limit=60.0, seed=0, sign_only=True)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


@pytest.mark.parametrize("solver", ["scip", "highs"])
def test_the_sign_of_the_optimum(solver: SolverName, worker: Worker) -> None:
    """The program is too hard to be solved in time; that its optimum is between two numbers is plain."""
    model = hard()
    relaxed = solve(model.relaxed(), solver, worker=worker).objective
    assert relaxed is not None and relaxed > 0  # the optimum is a little larger
    above = solve(replace(model, offset=-0.9 * relaxed), solver, OPTIONS, worker=worker)
    assert above.status == "feasible" and above.objective is not None
    assert 0 < above.dual_bound <= above.objective
    below = solve(replace(model, offset=-2 * relaxed), solver, OPTIONS, worker=worker)
    assert below.status == "feasible" and below.objective is not None
    assert below.dual_bound <= below.objective < 0


@pytest.mark.parametrize("solver", ["scip", "highs"])
def test_an_optimum_of_zero_has_no_sign(solver: SolverName, worker: Worker) -> None:
    model = hard(3, 12)
    best = solve(model, solver, replace(OPTIONS, sign_only=False), worker=worker)
    assert best.status == "optimal" and best.objective is not None
    zero = solve(replace(model, offset=-best.objective), solver, OPTIONS, worker=worker)
    assert zero.objective is not None and zero.dual_bound <= 1e-6

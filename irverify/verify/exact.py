"""The exact stage: bounds from linear programs, then one mixed-integer program for each disjunct that is still open."""

from __future__ import annotations

import math
import os

import numpy as np

from irverify.backends.milp.formulation import Formulation, formulate
from irverify.backends.milp.model import Floats
from irverify.backends.milp.process import Pool, Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from irverify.backends.milp.tightening import tighten
from irverify.errors import UnsupportedError, UsageError
from irverify.verify.problem import Clock, Problem

TOLERANCE = 1e-5
"""By how much the violation is relaxed: ten times what solvers let rows and bounds be broken by, so that an
"infeasible" keeps a margin. Violations slighter than this are refuted by nobody and stay unknown unless they
replay."""
SOLVERS: dict[str, SolverName] = {"auto": "highs", "highs": "highs", "scip": "scip"}


def check_solver(name: str) -> SolverName:
    """The solver that a name means. Raises UsageError for an unknown one."""
    if name not in SOLVERS:
        raise UsageError(f"expected one of the solvers {', '.join(SOLVERS)}, got {name!r}")
    return SOLVERS[name]


def tighten_bounds(problem: Problem, clock: Clock) -> None:
    """Bounds every pre-activation and the open disjuncts by linear programs over the triangle relaxation (paper 1,
    app. D.2).

    Where an operator has no exact encoding the problem stays open, with the reason.
    """
    with clock.stage("lp-tighten") as outcome:
        known = {name: (bounds.lower[0], bounds.upper[0]) for name, bounds in problem.bounds.items()}
        try:
            with Pool(_threads(clock)) as pool:
                result = tighten(
                    problem.work, problem.regions, known, prop=problem.open, time_limit=clock.left(), pool=pool
                )
        except UnsupportedError as error:
            problem.reason = str(error)
            return
        problem.tightened = result.bounds
        outcome.append(f"{result.solved} linear programs, {sum(result.open.values())} unstable elements left")
        margins = np.full(len(problem.open.disjuncts), -math.inf) if result.margins is None else result.margins
        refuted = np.flatnonzero(margins > problem.tolerance).tolist()
        if refuted:
            problem.refute(refuted, "lp", float(margins[refuted].min()), problem.tolerance)
        outcome.append(problem.summary(len(refuted)))


def search_exactly(problem: Problem, clock: Clock) -> None:
    """One mixed-integer program for each open disjunct, until each is refuted, one gave a counterexample, or time is
    over.

    A solver's "infeasible" refutes a disjunct only because the violation was relaxed by more than the solver's own
    tolerance; a point that it finds is a candidate for a replay.
    """
    if problem.tightened is None:  # there is no exact encoding, and the reason is known
        return
    solver = check_solver(clock.options.solver)
    with clock.stage(f"milp ({solver})") as outcome:
        formulation = formulate(problem.work, problem.regions, problem.open, problem.tightened)
        outcome.append(f"{int(formulation.model.integer.sum())} binaries")
        refuted = _search(problem, formulation, solver, clock)
        problem.refute(refuted, f"milp ({solver})", TOLERANCE, TOLERANCE)
        outcome.append(problem.summary(len(refuted)))


def _threads(clock: Clock) -> int:
    return clock.options.threads or os.cpu_count() or 1


def _search(problem: Problem, formulation: Formulation, solver: SolverName, clock: Clock) -> list[int]:
    """The disjuncts that a mixed-integer program shows to be infeasible; stops at the first counterexample."""
    refuted = []
    with Worker() as worker:
        for index in range(len(formulation.prop.disjuncts)):
            # First any point that violates; where it does not survive the replay, the one that violates most.
            for worst in (False, True):
                model = formulation.worst(index) if worst else formulation.feasible(index, TOLERANCE)
                options = SolveOptions(clock.left(), _threads(clock), 0, None, not worst)
                solution = solve(model, solver, options, worker=worker)
                if (solution.status == "infeasible" and not worst) or _proves(solution, worst):
                    refuted.append(index)
                    break
                if solution.x is not None and _replayed(problem, formulation, solution.x):
                    return refuted
                if clock.over:
                    return refuted
                if solution.status not in ("feasible", "optimal"):
                    problem.reason = f"{solver} ended with {solution.message or solution.status}"
                    break
            else:
                problem.reason = f"the violation that {solver} found is too slight to show on the source model"
    return refuted


def _proves(solution: Solution, worst: bool) -> bool:
    """The smallest margin is above the tolerance, by the solver's own dual bound at an optimum."""
    return worst and solution.status == "optimal" and solution.dual_bound > TOLERANCE


def _replayed(problem: Problem, formulation: Formulation, x: Floats) -> bool:
    """Whether the inputs in a solution, moved into what the network can be run on, are a counterexample."""
    if problem.inner is None:
        return False
    candidate = tuple(
        region.project(part.to(region.dtype))
        for region, part in zip(problem.inner, formulation.inputs(x), strict=True)
    )
    return problem.accept(candidate)

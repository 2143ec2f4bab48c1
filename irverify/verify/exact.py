"""The exact stage: bounds from linear programs, then one mixed-integer program for each disjunct that is still open."""

from __future__ import annotations

import math
import os

import numpy as np

from irverify.backends.milp.formulation import Formulation, Program, formulate
from irverify.backends.milp.model import Floats
from irverify.backends.milp.names import ObjectiveName
from irverify.backends.milp.process import Pool, Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import SolverName
from irverify.backends.milp.tightening import tighten
from irverify.errors import UnsupportedError, UsageError
from irverify.verify.problem import Clock, Problem

TOLERANCE = 1e-5
"""What a margin must exceed to prove anything, relative to the largest magnitude of any value (at least 1), and by how
much the violation is relaxed: ten times what solvers let rows and bounds be broken by, in units of the values.
Violations slighter than this are refuted by nobody and stay unknown unless they replay."""
SOLVERS: dict[str, SolverName] = {"auto": "scip", "highs": "highs", "scip": "scip", "cp-sat": "cp-sat"}
"""`auto` is SCIP: see docs/solvers.md."""
TIGHTENING_SHARE = 0.5
"""The part of the time that is left which linear programs may take; the search behind them must get its turn."""


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
        left = clock.left()
        limit = None if left is None else TIGHTENING_SHARE * left
        known = {name: (bounds.lower[0], bounds.upper[0]) for name, bounds in problem.bounds.items()}
        try:
            with Pool(_threads(clock)) as pool:
                result = tighten(
                    problem.work, problem.regions, known, prop=problem.open, time_limit=limit, pool=pool
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

    What refutes a disjunct is a lower bound of its smallest margin, above the tolerance. A bare "infeasible" refutes
    nothing: presolving and branching have called programs infeasible that have solutions with a margin of a thousandth
    of the largest value, while a minimisation, which always has a solution, has not been seen wrong by a millionth. An
    "infeasible" of CP-SAT refutes: it computes with whole numbers, around the program. A point that a solver finds is a
    candidate for a replay.
    """
    if problem.tightened is None:  # there is no exact encoding, and the reason is known
        return
    solver = check_solver(clock.options.solver)
    with clock.stage(f"milp ({solver})") as outcome:
        formulation = formulate(problem.work, problem.regions, problem.open, problem.tightened)
        outcome.append(f"{int(formulation.model.integer.sum())} binaries")
        try:
            margins = _search(problem, formulation, solver, clock)
        except UnsupportedError as error:  # of a program that has no room in 64-bit integers
            problem.reason = str(error)
            return
        tolerance = _tolerance(problem, solver)
        problem.refute(list(margins), f"milp ({solver})", min(margins.values(), default=0.0), tolerance)
        outcome.append(problem.summary(len(margins)))


def _threads(clock: Clock) -> int:
    return clock.options.threads or os.cpu_count() or 1


def _tolerance(problem: Problem, solver: SolverName) -> float:
    """What a margin must exceed, and by how much the violation is relaxed: nothing where whole numbers are rounded
    outward."""
    if solver == "cp-sat":
        return 0.0
    bounds = (problem.tightened or {}).values()
    return TOLERANCE * max([1.0, *(float(np.abs(side).max(initial=0.0)) for pair in bounds for side in pair)])


def _search(problem: Problem, formulation: Formulation, solver: SolverName, clock: Clock) -> dict[int, float]:
    """The disjuncts that a mixed-integer program refutes, with a bound of their smallest margin; stops at the first
    counterexample."""
    refuted: dict[int, float] = {}
    tolerance = _tolerance(problem, solver)
    with Worker() as worker:
        for index in range(len(formulation.prop.disjuncts)):
            # First any point that violates; where there is none, or it does not replay, the smallest margin.
            for worst in (False, True):
                objective: ObjectiveName = "margin" if worst else "feasibility"
                program = formulation.program(objective, disjunct=index, tolerance=tolerance)
                options = SolveOptions(clock.left(), _threads(clock), 0, None, not worst)
                hint = _hint(problem, program, index) if worst else None
                solution = solve(program.model, solver, options, hint=hint, worker=worker)
                if solution.proves and solution.status == "infeasible":
                    refuted[index] = tolerance
                    break
                if worst and solution.status in ("optimal", "feasible") and solution.dual_bound > tolerance:
                    refuted[index] = solution.dual_bound
                    break
                if solution.x is not None and _replayed(problem, formulation, solution.x):
                    return refuted
                if clock.over:
                    return refuted
                if solution.status not in ("feasible", "optimal") and (worst or solution.status != "infeasible"):
                    problem.reason = f"{solver} ended with {solution.message or solution.status}"
                    break
            else:
                problem.reason = f"the smallest margin that {solver} found is too slight to decide"
    return refuted


def _hint(problem: Problem, program: Program, index: int) -> Floats | None:
    """All variables at the point that an attack came nearest to violating a disjunct with."""
    found = problem.nearest.get(problem.open.disjuncts[index])
    return None if found is None else program.hint(found[1])


def _replayed(problem: Problem, formulation: Formulation, x: Floats) -> bool:
    """Whether the inputs in a solution, moved into what the network can be run on, are a counterexample."""
    if problem.inner is None:
        return False
    candidate = tuple(
        region.project(part.to(region.dtype))
        for region, part in zip(problem.inner, formulation.inputs(x), strict=True)
    )
    return problem.accept(candidate)

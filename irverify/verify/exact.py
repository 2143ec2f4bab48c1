"""The exact stage: bounds from linear programs, then one mixed-integer program for each disjunct that is still open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from irverify.backends.milp.formulation import Formulation, formulate
from irverify.backends.milp.model import Floats
from irverify.backends.milp.names import ObjectiveName
from irverify.backends.milp.process import Worker
from irverify.backends.milp.reserve import RESERVE
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from irverify.backends.milp.tightening import tighten
from irverify.cores import usable_cores
from irverify.errors import UnsupportedError, UsageError
from irverify.verify.problem import Clock, Problem

TOLERANCE = 1e-5
"""What a margin must exceed to prove anything, relative to the largest magnitude of any value (at least 1), and by how
much the violation is relaxed: ten times what solvers let rows and bounds be broken by, in units of the values.
Violations slighter than this are refuted by nobody and stay unknown unless they replay."""
SOLVERS: dict[str, SolverName] = {"auto": "scip", "highs": "highs", "scip": "scip", "cp-sat": "cp-sat"}
"""`auto` is SCIP: see docs/solvers.md."""


@dataclass(frozen=True)
class Attempt:
    """One way to ask for a disjunct: any point that violates it, or the smallest margin, whose sign may suffice; in a
    `share` of the time that is left."""

    objective: ObjectiveName
    sign_only: bool = False
    share: float = 1.0

    def goes_on(self, solution: Solution) -> bool:
        """Whether the next attempt makes sense after one that decided nothing."""
        known = ("feasible", "optimal", "no_solution")
        return solution.status in known or (solution.status == "infeasible" and self.objective == "feasibility")


SIGN_FIRST = (Attempt("margin", True, 0.6), Attempt("feasibility", share=0.5), Attempt("margin"))
"""The sign of the smallest margin takes a small part of the time that the smallest margin itself does, and proves as
much. What is left finds violations that it did not."""
ATTEMPTS: dict[SolverName, tuple[Attempt, ...]] = {
    "scip": SIGN_FIRST,
    "highs": SIGN_FIRST,
    "cp-sat": (Attempt("feasibility", share=0.5), Attempt("margin")),
}
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
            with RESERVE.borrow(_threads(clock)) as pool:
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
        rest = np.delete(margins, refuted)
        if rest.size:
            problem.floor = float(rest.min())
            outcome.append(f"by the relaxation the smallest margin is at least {problem.floor:.6g}")


def search_exactly(problem: Problem, clock: Clock) -> None:
    """One mixed-integer program for each open disjunct, until each is refuted, one gave a counterexample, or time is
    over.

    What refutes a disjunct is a lower bound of its smallest margin, above the tolerance. A bare "infeasible" refutes
    nothing: presolving and branching have called programs infeasible that have solutions with a margin of a thousandth
    of the largest value, while a minimisation, which always has a solution, has not been seen wrong by a millionth. An
    "infeasible" of CP-SAT refutes: it computes with whole numbers, around the program. A point that a solver finds is a
    candidate for a replay. Where time runs out, what linear programs and the search have bounded the margins by stays
    as the floor of the problem.
    """
    if problem.tightened is None:  # there is no exact encoding, and the reason is known
        return
    solver = check_solver(clock.options.solver)
    with clock.stage(f"milp ({solver})") as outcome:
        formulation = formulate(problem.work, problem.regions, problem.open, problem.tightened)
        outcome.append(f"{int(formulation.model.integer.sum())} binaries")
        try:
            with RESERVE.borrow(1) as pool:
                search = _Search(problem, formulation, solver, clock, pool.workers[0])
                search.run()
        except UnsupportedError as error:  # of a program that has no room in 64-bit integers
            problem.reason = str(error)
            return
        refuted = search.refuted
        problem.refute(list(refuted), f"milp ({solver})", min(refuted.values(), default=0.0), search.tolerance)
        outcome.append(problem.summary(len(refuted)))
        if not problem.decided and problem.floor is not None:
            outcome.append(f"the smallest margin is at least {problem.floor:.6g}")


def _threads(clock: Clock) -> int:
    return clock.options.threads or usable_cores()


def _tolerance(problem: Problem, solver: SolverName) -> float:
    """What a margin must exceed, and by how much the violation is relaxed: where whole numbers are rounded outward,
    only by what the rows may have lost when they were computed in float64."""
    if solver == "cp-sat":
        return problem.tolerance
    bounds = (problem.tightened or {}).values()
    return TOLERANCE * max([1.0, *(float(np.abs(side).max(initial=0.0)) for pair in bounds for side in pair)])


@dataclass
class _Search:
    """The programs of the open disjuncts of one problem: `refuted` disjuncts with a bound of their smallest margin."""

    problem: Problem
    formulation: Formulation
    solver: SolverName
    clock: Clock
    worker: Worker
    refuted: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tolerance = _tolerance(self.problem, self.solver)

    def run(self) -> None:
        """Goes through the disjuncts; stops at the first counterexample, or when time is over."""
        floors = []
        for index in range(len(self.formulation.prop.disjuncts)):
            floors.append(self._decide(index))
            if self.problem.counterexample is not None or self.clock.over:
                break
        floor = self.problem.floor
        if floor is not None and len(floors) == len(self.formulation.prop.disjuncts):
            still = [bound for index, bound in enumerate(floors) if index not in self.refuted]
            self.problem.floor = max(floor, min(still, default=floor))

    def _decide(self, index: int) -> float:
        """Works on one disjunct; a lower bound of its smallest margin, as far as the solver is to be believed."""
        floor = -math.inf
        for attempt in ATTEMPTS[self.solver]:
            solution = self._solved(index, attempt)
            margin = attempt.objective == "margin"  # always has a solution: "infeasible" would contradict itself
            bounded = solution.status in ("optimal", "feasible") and margin
            if solution.proves and solution.status == "infeasible" and not margin:
                self.refuted[index] = self.tolerance
                return self.tolerance
            if bounded:
                floor = max(floor, solution.dual_bound - self.tolerance)
                if solution.dual_bound > self.tolerance:
                    self.refuted[index] = solution.dual_bound
                    return solution.dual_bound
            if solution.x is not None and _replayed(self.problem, self.formulation, solution.x):
                return floor
            if self.clock.over:
                return floor
            if not attempt.goes_on(solution):
                self.problem.reason = f"{self.solver} ended with {solution.message or solution.status}"
                return floor
        self.problem.reason = f"the smallest margin that {self.solver} found is too slight to decide"
        return floor

    def _solved(self, index: int, attempt: Attempt) -> Solution:
        program = self.formulation.program(attempt.objective, disjunct=index, tolerance=self.tolerance)
        nearest = self.problem.nearest.get(self.formulation.prop.disjuncts[index])
        margin = attempt.objective == "margin"
        hint = program.hint(nearest[1]) if margin and nearest is not None else None
        left = self.clock.left()
        options = SolveOptions(
            None if left is None else attempt.share * left, _threads(self.clock), seed=0, first_solution=not margin,
            sign_only=attempt.sign_only,
        )  # fmt: skip
        return solve(program.model, self.solver, options, hint=hint, worker=self.worker)


def _replayed(problem: Problem, formulation: Formulation, x: Floats) -> bool:
    """Whether the inputs in a solution, moved into what the network can be run on, are a counterexample."""
    if problem.inner is None:
        return False
    candidate = tuple(
        region.project(part.to(region.dtype))
        for region, part in zip(problem.inner, formulation.inputs(x), strict=True)
    )
    return problem.accept(candidate)

"""Bounds of variables over a mixed-integer model, one program for each side of each, that several processes share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from irverify.backends.milp.cones import Cones
from irverify.backends.milp.model import Floats, MilpModel
from irverify.backends.milp.process import Pool, Worker
from irverify.backends.milp.programs import FOREVER, Wishes, box_sums
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from irverify.errors import SolverError

TOLERANCE = 1e-5
"""By how much a dual bound is moved outward, relative to the largest magnitude of any variable that the target depends
on (at least 1): ten times what rows and bounds may be broken by. Solvers' bounds have been seen above the value of a
true execution by 1.2e-5 where values are up to 29."""
BOUNDED = ("optimal", "feasible", "no_solution")
"""What may come with a bound. "Infeasible" is wrong: the network takes some value."""


@dataclass
class IntegerPrograms:
    """Runs mixed-integer programs until a deadline, each for no more than `limit` seconds, and counts them.

    What counts is the solver's dual bound, moved outward by `TOLERANCE`; no more rigorous than the solver is. A bound
    that an execution contradicts is dropped and counted in `wrong`, a program that was ended by its limit in `limited`,
    one at which the solver failed or crashed in `failed`.
    """

    pool: Pool
    limit: float
    solver: SolverName = "scip"
    deadline: float = FOREVER
    solved: int = 0
    finished: bool = True
    limited: int = 0
    wrong: int = 0
    failed: int = 0

    def bounds(self, model: MilpModel, wishes: Wishes) -> tuple[Floats, Floats]:
        """Bounds of the targets, from those in `model` on."""
        targets = wishes.targets
        lower, upper = model.lower[targets].copy(), model.upper[targets].copy()
        reduced = reduce(model, targets)
        cones, places = Cones(reduced.model), np.searchsorted(reduced.kept, targets)
        simple, low, high = box_sums(cones, places)
        lower[simple], upper[simple] = np.maximum(lower[simple], low), np.minimum(upper[simple], high)
        nearness = np.minimum(wishes.knots - lower, upper - wishes.knots)
        asked = [k for k in np.argsort(nearness, kind="stable").tolist() if wishes.sides[k].any() and not simple[k]]

        def jobs() -> Iterator[_Target]:
            for k in asked:
                cone, kept = cones.cut(places[k : k + 1])
                yield _Target(wishes, k, cone, int(np.searchsorted(kept, places[k])))

        for k, done in zip(asked, self.pool.shared(self._bounded, jobs()), strict=True):
            lower[k], upper[k] = max(lower[k], done.lower), min(upper[k], done.upper)
            self.solved += done.solved
            self.limited += done.limited
            self.wrong += done.wrong
            self.failed += done.failed
            self.finished = self.finished and not done.late
        return lower, upper

    def _bounded(self, worker: Worker, target: _Target) -> _Target:
        """Asks for the sides that are wanted, until the target is settled."""
        for sign in target.signs():
            left = self.deadline - time.time()
            target.late = target.late or left <= 0
            if target.settled or target.late:
                return target
            # Measured from the knot, so that a program of which only the sign counts can end early.
            origin = sign * target.knot if target.sign_only else 0.0
            model = target.cone.minimize([target.column], [sign], -origin)
            options = SolveOptions(min(self.limit, left), seed=0, sign_only=target.sign_only)
            target.solved += 1
            try:
                solution = solve(model, self.solver, options, worker=worker)
            except SolverError:  # of one program; older bounds stay
                target.failed += 1
                continue
            if solution.status in BOUNDED and math.isfinite(solution.dual_bound):
                target.learn(sign, solution.dual_bound + origin)
            target.limited += not _over(solution, target.sign_only)
        return target


def _over(solution: Solution, sign_only: bool) -> bool:
    """Whether a program was solved, and not ended by its limit."""
    if solution.status != "feasible" or not sign_only or solution.objective is None:
        return solution.status == "optimal"
    return solution.objective < 0 or solution.dual_bound > 0


class _Target:
    """One variable while it is being bounded."""

    def __init__(self, wishes: Wishes, k: int, cone: MilpModel, column: int) -> None:
        self.cone, self.column = cone, column
        self.knot, self.sides = float(wishes.knots[k]), wishes.sides[k]
        self.seen = float(wishes.seen[0][k]), float(wishes.seen[1][k])
        self.lower, self.upper = float(cone.lower[column]), float(cone.upper[column])
        self.sign_only = wishes.signs and math.isfinite(self.knot)
        self.solved, self.wrong, self.limited, self.failed = 0, 0, 0, 0
        self.late = False
        ends = np.abs(np.concatenate([cone.lower, cone.upper]))
        self._margin = TOLERANCE * max(1.0, float(ends[np.isfinite(ends)].max(initial=0.0)))

    @property
    def settled(self) -> bool:
        return self.lower >= self.knot or self.upper <= self.knot

    def signs(self) -> tuple[float, ...]:
        """1.0 for the lower side, -1.0 for the upper, the one nearer to the knot first."""
        order = ((1.0, 0), (-1.0, 1)) if self.knot - self.lower < self.upper - self.knot else ((-1.0, 1), (1.0, 0))
        return tuple(sign for sign, side in order if self.sides[side])

    def learn(self, sign: float, dual_bound: float) -> None:
        """Takes a bound of `sign` times the target, moved outward, unless an execution contradicts it."""
        bound = dual_bound - self._margin
        least = self.seen[0] if sign > 0 else -self.seen[1]
        if not bound <= least:
            self.wrong += 1
        elif sign > 0:
            self.lower = max(self.lower, min(bound, self.upper))
        else:
            self.upper = min(self.upper, max(-bound, self.lower))

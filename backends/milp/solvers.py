"""Solving a model with SCIP or HiGHS in a process of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from irverify.backends.milp.model import Floats, MilpModel
from irverify.backends.milp.process import OverTime, Worker
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.tasks import Solution, SolverName, SolveTask
from irverify.errors import UsageError

GRACE = 0.5
"""Seconds that a solver has beyond its time limit before its process is killed."""


@dataclass(frozen=True)
class SolveOptions:
    """How to solve: seconds (None: no limit), threads, random seed, memory of the solver process in bytes, and whether
    the first solution found is enough. Tolerances are the solvers' own: tightened ones have given false
    infeasibility."""

    time_limit: float | None = None
    threads: int = 1
    seed: int | None = None
    memory: int | None = None
    first_solution: bool = False

    def __post_init__(self) -> None:
        if self.time_limit is not None and not 0 <= self.time_limit < math.inf:
            raise UsageError(f"expected a time limit in seconds >= 0 or None, got {self.time_limit}")
        if self.threads < 1:
            raise UsageError(f"expected one thread or more, got {self.threads}")


def solve(
    model: MilpModel,
    solver: SolverName = "highs",
    options: SolveOptions | None = None,
    *,
    hint: Floats | None = None,
    worker: Worker | None = None,
) -> Solution:
    """Solves `model`, hard-limited: at `time_limit` plus half a second the solver process is killed (`no_solution`).

    `hint` `[variables]` is a point to start from. `worker` is a process to use again (with its own limit of memory);
    without one a new one is started and ended. Raises SolverError where the solver crashed, failed or was killed by
    someone else: that is never a status.
    """
    options = options or SolveOptions()
    if solver not in ("scip", "highs"):
        raise UsageError(f"expected solver scip or highs, got {solver!r}")
    if hint is not None and (hint.shape != model.lower.shape or not bool(np.isfinite(hint).all())):
        raise UsageError(f"expected a finite hint for {len(model.lower)} variables, got shape {hint.shape}")
    if worker is None:
        with Worker(options.memory) as own:
            return solve(model, solver, options, hint=hint, worker=own)
    started = time.time()
    reduced = reduce(model)
    hint = None if hint is None else hint[reduced.kept]
    deadline = None if options.time_limit is None else started + options.time_limit
    try:
        worker.submit(
            SolveTask(reduced.model, solver, deadline, options.threads, options.seed, hint, options.first_solution)
        )
        answer = worker.result(None if deadline is None else max(0.0, deadline + GRACE - time.time()))
    except OverTime:
        return Solution("no_solution", None, -math.inf, None, time.time() - started, solver, "killed at the time limit")
    assert isinstance(answer, Solution)
    return answer if answer.x is None else replace(answer, x=reduced.expand(answer.x))

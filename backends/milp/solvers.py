"""Solving a model with SCIP, HiGHS or CP-SAT in a process of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from irverify.backends.milp.integers import whole
from irverify.backends.milp.model import Floats, MilpModel
from irverify.backends.milp.process import OverTime, Worker
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.tasks import Answer, IntegerTask, Solution, SolverName, SolveTask, Task, WholeSolution
from irverify.errors import UsageError

SOLVERS: tuple[SolverName, ...] = ("scip", "highs", "cp-sat")
GRACE = 0.5
"""Seconds that a solver has beyond its time limit before its process is killed."""


@dataclass(frozen=True)
class SolveOptions:
    """How to solve: seconds (None: no limit), threads, random seed, memory of the solver process in bytes; whether the
    first solution found is enough, or the sign of the optimum (no notice is taken by CP-SAT): then a solve ends as
    `feasible` once its solution and its bound are on the same side of 0, and the bound is not much nearer to it.
    Tolerances are the solvers' own: tightened ones have given false infeasibility."""

    time_limit: float | None = None
    threads: int = 1
    seed: int | None = None
    memory: int | None = None
    first_solution: bool = False
    sign_only: bool = False

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
    if solver not in SOLVERS:
        raise UsageError(f"expected one of the solvers {', '.join(SOLVERS)}, got {solver!r}")
    if hint is not None and (hint.shape != model.lower.shape or not bool(np.isfinite(hint).all())):
        raise UsageError(f"expected a finite hint for {len(model.lower)} variables, got shape {hint.shape}")
    if worker is None:
        with Worker(options.memory) as own:
            return solve(model, solver, options, hint=hint, worker=own)
    started = time.time()
    deadline = None if options.time_limit is None else started + options.time_limit
    run = _over_integers if solver == "cp-sat" else _in_floating_point
    try:
        return run(_Job(model, solver, options, hint, worker, deadline))
    except OverTime:
        return Solution("no_solution", None, -math.inf, None, time.time() - started, solver, "killed at the time limit")


@dataclass(frozen=True, eq=False)
class _Job:
    """A solve; `deadline` in the time of `time.time`."""

    model: MilpModel
    solver: SolverName
    options: SolveOptions
    hint: Floats | None
    worker: Worker
    deadline: float | None

    def answer(self, task: Task) -> Answer:
        self.worker.submit(task)
        return self.worker.result(None if self.deadline is None else max(0.0, self.deadline + GRACE - time.time()))


def _in_floating_point(job: _Job) -> Solution:
    reduced, options = reduce(job.model), job.options
    hint = None if job.hint is None else job.hint[reduced.kept]
    task = SolveTask(
        reduced.model, job.solver, job.deadline, options.threads, options.seed, hint, options.first_solution,
        options.sign_only,
    )  # fmt: skip
    answer = job.answer(task)
    assert isinstance(answer, Solution)
    return answer if answer.x is None else replace(answer, x=reduced.expand(answer.x))


def _over_integers(job: _Job) -> Solution:
    """By the integer program around the model as it stands: substitutions would round."""
    program, options = whole(job.model), job.options
    hint = None if job.hint is None else program.rounded(job.hint)
    answer = job.answer(
        IntegerTask(program, job.deadline, options.threads, options.seed, hint, options.first_solution)
    )
    assert isinstance(answer, WholeSolution)
    x = None if answer.x is None else program.point(answer.x)
    objective = None if x is None else float(job.model.objective @ x) + job.model.offset
    bound = -math.inf if answer.bound == -math.inf else program.bound(answer.bound) + job.model.offset
    return Solution(answer.status, objective, bound, x, answer.seconds, "cp-sat", answer.message, proves=True)

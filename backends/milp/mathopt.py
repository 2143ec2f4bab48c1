"""Solves through OR-Tools MathOpt. Imported in solver processes only."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import numpy as np
from ortools.math_opt import (
    callback_pb2,
    model_parameters_pb2,
    parameters_pb2,
    result_pb2,
)
from ortools.math_opt.core.python import solver

from irverify.backends.milp.model import Floats
from irverify.backends.milp.protos import to_proto
from irverify.backends.milp.tasks import Solution, SolveTask, Status

SOLVERS = {"scip": parameters_pb2.SOLVER_TYPE_GSCIP, "highs": parameters_pb2.SOLVER_TYPE_HIGHS}
STATUSES: dict[int, Status] = {
    result_pb2.TERMINATION_REASON_OPTIMAL: "optimal",
    result_pb2.TERMINATION_REASON_INFEASIBLE: "infeasible",
    result_pb2.TERMINATION_REASON_FEASIBLE: "feasible",
    result_pb2.TERMINATION_REASON_NO_SOLUTION_FOUND: "no_solution",
}
"""Every other reason is unknown."""
CLOSED = 1e-6
"""The gap, relative to an optimum of at least 1, that counts as none."""
SIGN_GAPS = {"scip": 10.0, "highs": 0.9}
"""The relative gap between the best solution p and the bound d at which the sign of the optimum is known, with d well
apart from 0: SCIP divides `p - d` by the smaller magnitude of the two and takes it as infinite where they differ in
sign, so that `d >= p / 11`; HiGHS divides by that of p, so that `d >= p / 10`."""


def solve(task: SolveTask) -> Solution:
    """One solve from scratch."""
    started = time.perf_counter()
    proto = to_proto(task.model)
    parameters = _parameters(task)
    hints = model_parameters_pb2.ModelSolveParametersProto()
    if task.hint is not None:
        values = hints.solution_hints.add().variable_values
        values.ids.extend(np.arange(len(task.hint)))
        values.values.extend(task.hint)
    result = solve_proto(proto, SOLVERS[task.solver], parameters, hints)
    return _solution(task, result, time.perf_counter() - started)


def _parameters(task: SolveTask) -> Any:
    parameters = limited(task.deadline)
    if task.seed is not None:
        parameters.random_seed = task.seed
    if task.first_solution:
        parameters.solution_limit = 1
    if task.sign_only:
        parameters.relative_gap_tolerance = SIGN_GAPS[task.solver]
    if task.solver == "highs":  # MathOpt refuses `threads` for it
        parameters.highs.int_options["threads"] = task.threads
    else:
        parameters.threads = task.threads
    return parameters


def _solution(task: SolveTask, result: Any, seconds: float) -> Solution:
    termination = result.termination
    status: Status = STATUSES.get(termination.reason, "unknown")
    reason = result_pb2.TerminationReasonProto.Name(termination.reason).removeprefix("TERMINATION_REASON_").lower()
    message = f"{reason} {termination.detail}".strip()
    found = next((entry.primal_solution for entry in result.solutions if entry.HasField("primal_solution")), None)
    x = objective = None
    if found is not None and status in ("optimal", "feasible"):
        x, objective = dense(found.variable_values, len(task.model.lower)), found.objective_value
    elif status in ("optimal", "feasible"):
        status = "unknown"
    bound = termination.objective_bounds.dual_bound if status != "unknown" else -np.inf
    bound = -np.inf if np.isnan(bound) else float(bound)
    if task.sign_only and status == "optimal" and objective is not None:
        left = objective - bound
        status = "optimal" if left <= CLOSED * max(1.0, abs(objective)) else "feasible"
    return Solution(status, objective, bound, x, seconds, task.solver, message)


def dense(vector: Any, size: int) -> Floats:
    """A `SparseDoubleVectorProto` as an array."""
    values = np.zeros(size)
    values[np.fromiter(vector.ids, dtype=np.int64, count=len(vector.ids))] = vector.values
    return values


def limited(deadline: float | None) -> Any:
    """Parameters with the time that is left."""
    parameters = parameters_pb2.SolveParametersProto()
    if deadline is not None:
        parameters.time_limit.FromTimedelta(timedelta(seconds=max(0.0, deadline - time.time())))
    return parameters


def solve_proto(proto: Any, kind: int, parameters: Any, hints: Any = None) -> Any:
    initializer, callbacks = parameters_pb2.SolverInitializerProto(), callback_pb2.CallbackRegistrationProto()
    hints = hints or model_parameters_pb2.ModelSolveParametersProto()
    return solver.solve(proto, kind, initializer, parameters, hints, None, callbacks, None, None)

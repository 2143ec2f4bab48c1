"""Solves integer programs with CP-SAT. Imported in solver processes only."""

from __future__ import annotations

import time

import numpy as np
from ortools.sat.python import cp_model

from irverify.backends.milp.tasks import IntegerTask, Status, WholeSolution

STATUSES: dict[int, Status] = {
    int(cp_model.OPTIMAL): "optimal",
    int(cp_model.INFEASIBLE): "infeasible",
    int(cp_model.FEASIBLE): "feasible",
    int(cp_model.UNKNOWN): "no_solution",
}
"""Every other status means that the model was refused."""


def solve(task: IntegerTask) -> WholeSolution:
    """One solve from scratch. RuntimeError where CP-SAT refuses the model."""
    started = time.perf_counter()
    program, variables = _program(task)
    solver = cp_model.CpSolver()
    _set_parameters(solver.parameters, task)
    code = solver.solve(program)
    seconds = time.perf_counter() - started
    if int(code) not in STATUSES:
        raise RuntimeError(f"CP-SAT refused the model: {program.validate() or solver.status_name(code)}")
    status = STATUSES[int(code)]
    found = None
    if status in ("optimal", "feasible"):
        found = np.array([solver.value(variable) for variable in variables], dtype=np.int64)
    bound = -np.inf
    if status in ("optimal", "feasible", "no_solution") and bool(np.any(task.model.objective)):
        bound = float(solver.best_objective_bound)
    return WholeSolution(status, found, bound, seconds, solver.status_name(code).lower())


def _program(task: IntegerTask) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    program, model = cp_model.CpModel(), task.model
    bounds = zip(model.lower.tolist(), model.upper.tolist(), strict=True)
    variables = [program.new_int_var(low, high, "") for low, high in bounds]
    ends, columns, values = model.rows.indptr.tolist(), model.rows.indices.tolist(), model.rows.data.tolist()
    sides = zip(model.row_lower.tolist(), model.row_upper.tolist(), strict=True)
    for number, (low, high) in enumerate(sides):
        part = slice(ends[number], ends[number + 1])
        chosen = [variables[column] for column in columns[part]]
        program.add_linear_constraint(cp_model.LinearExpr.weighted_sum(chosen, values[part]), low, high)
    used = np.flatnonzero(model.objective).tolist()
    if used:
        chosen, weights = [variables[at] for at in used], model.objective[used].tolist()
        program.minimize(cp_model.LinearExpr.weighted_sum(chosen, weights))
    if task.hint is not None:
        for variable, value in zip(variables, task.hint.tolist(), strict=True):
            program.add_hint(variable, value)
    return program, variables


def _set_parameters(parameters: cp_model.SatParameters, task: IntegerTask) -> None:
    parameters.num_workers = task.threads
    if task.deadline is not None:
        parameters.max_time_in_seconds = max(0.0, task.deadline - time.time())
    if task.seed is not None:
        parameters.random_seed = task.seed
    parameters.stop_after_first_solution = task.first_solution

"""Linear programs over one model, one objective after the other. Imported in solver processes only."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ortools.math_opt import callback_pb2, model_parameters_pb2, model_pb2, model_update_pb2, parameters_pb2
from ortools.math_opt.core.python import solver

from irverify.backends.milp.duals import DualBound
from irverify.backends.milp.mathopt import SOLVERS, dense, limited, solve_proto
from irverify.backends.milp.model import Floats, MilpModel
from irverify.backends.milp.protos import to_proto
from irverify.backends.milp.tasks import LpBounds, LpTask

GLOP = parameters_pb2.SOLVER_TYPE_GLOP
TOLERANCE = 1e-6
"""How far beyond its knot a target must be at a point, as such points break rows a little."""


def lp_bounds(task: LpTask) -> LpBounds:
    """The bounds of each target, one linear program for a side, by GLOP's simplex with the basis of the one before."""
    sequence = _Sequence(task.model)
    seen = _Seen(task)
    lower, upper = task.lower.copy(), task.upper.copy()
    solved = 0
    for k, (target, knot) in enumerate(zip(task.targets.tolist(), task.knots.tolist(), strict=True)):
        for sign in _sides(task, k, lower[k], upper[k]):
            if lower[k] >= knot or upper[k] <= knot:
                break
            if task.signs and seen.settles_nothing(k, sign):
                continue
            if time.time() >= task.deadline:
                return LpBounds(lower, upper, solved, False)
            least, point = sequence.minimum(target, sign, task.deadline)
            bound = sign * least
            solved += 1
            if point is not None:
                seen.learn(point)
            if sign > 0 and lower[k] < bound <= upper[k]:
                lower[k] = bound
            elif sign < 0 and lower[k] <= bound < upper[k]:
                upper[k] = bound
    return LpBounds(lower, upper, solved, True)


def _sides(task: LpTask, k: int, lower: float, upper: float) -> tuple[float, ...]:
    """1.0 for the lower side, -1.0 for the upper: the one that is nearer to settling first."""
    knot = float(task.knots[k])
    order = ((1.0, 0), (-1.0, 1)) if knot - lower < upper - knot else ((-1.0, 1), (1.0, 0))
    return tuple(sign for sign, side in order if task.sides[k, side])


class _Seen:
    """On which sides of their knots points of the relaxation have had the targets."""

    def __init__(self, task: LpTask) -> None:
        self._targets, self._knots = task.targets, task.knots
        self._below, self._above = (np.zeros(len(task.targets), dtype=np.bool_) for _ in range(2))

    def learn(self, point: Floats) -> None:
        beyond = point[self._targets] - self._knots
        self._below |= beyond < -TOLERANCE
        self._above |= beyond > TOLERANCE

    def settles_nothing(self, k: int, sign: float) -> bool:
        return bool(self._below[k] if sign > 0 else self._above[k])


class _Sequence:
    """One continuous model, minimised for one variable after the other."""

    def __init__(self, model: MilpModel) -> None:
        self._size = model.size
        self._dual = DualBound(model)
        self._proto = to_proto(model)
        self._restart()

    def minimum(self, variable: int, sign: float, deadline: float) -> tuple[float, Floats | None]:
        """A rigorous lower bound of `min sign x[variable]`, -inf where no solver gave duals; and the point that is
        said to be the minimum."""
        result = self._solved(variable, sign, deadline)
        if _duals(result) is None:  # GLOP says now and then, of a basis it has gone on from, that it is imprecise
            self._restart()
            result = self._solved(variable, sign, deadline)
        if _duals(result) is None:
            result = self._solved_by_highs(variable, sign, deadline)
        duals, point = _duals(result), _point(result)
        primal = None if point is None else dense(point.variable_values, self._size[1])
        if duals is None:
            return -np.inf, primal
        objective = np.zeros(self._size[1])
        objective[variable] = sign
        return self._dual.lower(objective, dense(duals.dual_values, self._size[0])), primal

    def _restart(self) -> None:
        """Forgets the basis."""
        self._last: int | None = None
        self._solver = solver.new(GLOP, self._proto, parameters_pb2.SolverInitializerProto())

    def _solved(self, variable: int, sign: float, deadline: float) -> Any:
        update = model_update_pb2.ModelUpdateProto()
        changes = {variable: sign} if self._last in (None, variable) else {variable: sign, self._last: 0.0}
        for number in sorted(changes):
            update.objective_updates.linear_coefficients.ids.append(number)
            update.objective_updates.linear_coefficients.values.append(changes[number])
        if not self._solver.update(update):
            raise RuntimeError("GLOP refused a change of the objective")
        self._last = variable
        parameters = limited(deadline)
        parameters.threads = 1
        parameters.lp_algorithm = parameters_pb2.LP_ALGORITHM_DUAL_SIMPLEX  # up to 2.5 times faster than the primal one
        hints, callbacks = model_parameters_pb2.ModelSolveParametersProto(), callback_pb2.CallbackRegistrationProto()
        return self._solver.solve(parameters, hints, None, callbacks, None, None)

    def _solved_by_highs(self, variable: int, sign: float, deadline: float) -> Any:
        proto = model_pb2.ModelProto()
        proto.CopyFrom(self._proto)
        proto.objective.linear_coefficients.ids.append(variable)
        proto.objective.linear_coefficients.values.append(sign)
        return solve_proto(proto, SOLVERS["highs"], limited(deadline))


def _duals(result: Any) -> Any:
    return next((entry.dual_solution for entry in result.solutions if entry.HasField("dual_solution")), None)


def _point(result: Any) -> Any:
    return next((entry.primal_solution for entry in result.solutions if entry.HasField("primal_solution")), None)

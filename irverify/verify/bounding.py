"""Bounds of the open rows of many problems of one network at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from irverify.errors import IRVerifyError, PropertyError, UnsupportedError, UsageError, is_out_of_memory
from irverify.ir.graph import Graph
from irverify.passes.gap import minimum
from irverify.passes.tolerance import output_tolerance
from irverify.pipeline import Analysis, Bounds, BoundsFault, Estimator, Pass, parse_passes, run
from irverify.pipeline.base import refuse_changes
from irverify.pipeline.rows import specified
from irverify.pipeline.spec import spec_operands
from irverify.pipeline.state import State
from irverify.properties.rows import merged
from irverify.regions import Region, join
from irverify.verify.problem import Problem


@dataclass(frozen=True)
class Stack:
    """The rows `A x + C y + d` of the open disjuncts of problems of one network, as the output of one graph.

    `matrix` `[problems, rows, columns]` and `offset` `[problems, rows]` have as many rows for each problem; where one
    has fewer, the first of them is repeated. The columns are the outputs and, with `mixed`, the inputs.
    """

    problems: Sequence[Problem]
    matrix: Tensor
    offset: Tensor
    mixed: bool

    @staticmethod
    def of(problems: Sequence[Problem]) -> Stack:
        whole = [merged(problem.open.disjuncts) for problem in problems]
        mixed = any(rows.inputs is not None for rows in whole)
        most = max(rows.offset.shape[0] for rows in whole)
        columns = sum(node.type.size for node in problems[0].work.inputs)
        matrices, offsets = [], []
        for rows in whole:
            matrix = rows.outputs
            if mixed:
                inputs = matrix.new_zeros(matrix.shape[0], columns) if rows.inputs is None else rows.inputs
                matrix = torch.cat([matrix, inputs], dim=1)
            missing = most - matrix.shape[0]
            matrices.append(torch.cat([matrix, matrix[:1].expand(missing, -1)]))
            offsets.append(torch.cat([rows.offset, rows.offset[:1].expand(missing)]))
        return Stack(problems, torch.stack(matrices), torch.stack(offsets), mixed)

    @cached_property
    def graph(self) -> Graph:
        return specified(self.problems[0].work, self.matrix.shape[1], inputs=self.mixed)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        return tuple(join(parts) for parts in zip(*(problem.regions for problem in self.problems), strict=True))

    @cached_property
    def operands(self) -> dict[str, Tensor]:
        return dict(zip(spec_operands(self.graph), (self.matrix, self.offset), strict=True))

    def of_disjuncts(self, place: int, rows: Tensor) -> list[Tensor]:
        """`rows` `[rows, ...]` of one problem, apart by its disjuncts."""
        sizes = [disjunct.offset.shape[0] for disjunct in self.problems[place].open.disjuncts]
        return list(rows[: sum(sizes)].split(sizes))

    def state(self) -> State:
        """What is known of the problems so far."""
        state = State(self.graph, self.regions, self.operands)
        known = [problem.bounds for problem in self.problems]
        for node in self.graph.nodes:
            if all(node.name in bounds for bounds in known):
                mine = [bounds[node.name] for bounds in known]
                lower, upper = (torch.cat([getattr(each, side) for each in mine]) for side in ("lower", "upper"))
                if tuple(lower.shape[1:]) == node.type.shape:
                    state.bounds[node.name] = Bounds(lower, upper, mine[0].source)
        return state


def bound(problems: Sequence[Problem], method: str) -> dict[int, Exception]:
    """Refutes the disjuncts one of whose rows a method bounds above the tolerance; remembers the bounds of all values.

    What goes wrong is asked again of halves, until it is a problem's own: where the network is undefined or unbounded
    on its region, or has operators that the method has no rule for, that problem gets a `reason`; faults are returned,
    by the place of the problem.
    """
    check_method(method)
    return in_parts(problems, lambda part: _bound(part, method), _undefined)


def check_method(method: str | Sequence[Pass]) -> None:
    """Raises UsageError unless a pipeline's bounds are bounds of the network's own function."""
    steps = parse_passes(method)
    last = steps[-1] if steps else None
    if isinstance(last, Estimator):
        hint = "crown, say, gives bounds"
        raise UsageError(f"{last.name} is an estimator, and an estimate is not a bound", hint=hint)
    if not isinstance(last, Analysis):
        raise UsageError(f"expected a pipeline that ends in an analysis with bounds, got {method!r}")
    refuse_changes(steps)


def _undefined(problem: Problem, error: Exception) -> bool:
    if isinstance(error, UnsupportedError):
        problem.reason = str(error)
        return True
    return False


def _bound(problems: Sequence[Problem], method: str) -> None:
    stack = Stack.of(problems)
    with torch.no_grad():
        state = run(stack.graph, method, stack.regions, operands=stack.operands)
        (result,) = state.graph.outputs
        if result not in state.bounds:
            raise PropertyError(f"expected a pipeline that bounds the specification, got {method!r}")
        lower = state.bounds[result].lower
        if not all(math.isfinite(problem.tolerance) for problem in problems):
            needed = output_tolerance(stack.graph, stack.regions, stack.operands).amax(1)  # NaN exceeds nothing
            for problem, tolerance in zip(problems, needed.tolist(), strict=True):
                problem.tolerance = tolerance if not math.isfinite(problem.tolerance) else problem.tolerance
    lower = torch.where(lower.isfinite(), lower, torch.full_like(lower, -math.inf))  # an overflow, NaN: no proof
    for place, problem in enumerate(problems):
        problem.learn({
            name: Bounds(each.lower[place : place + 1], each.upper[place : place + 1], each.source)
            for name, each in state.bounds.items()
        })
        best = [float(rows.max()) for rows in stack.of_disjuncts(place, lower[place])]
        refuted = [index for index, margin in enumerate(best) if margin > problem.tolerance]
        problem.refute(refuted, method, min((best[index] for index in refuted), default=0.0), problem.tolerance)


def relaxed_points(problems: Sequence[Problem]) -> list[list[tuple[Tensor, ...]]]:
    """For each problem and open disjunct the inputs at which the linear lower bounds of its rows are least (paper 2,
    eq. 8), `[rows, *shape]` for each network input; nothing where the network has no linear bounds."""
    result: list[list[tuple[Tensor, ...]]] = [[] for _ in problems]
    places = {id(problem): place for place, problem in enumerate(problems)}

    def collect(part: Sequence[Problem]) -> None:
        stack = Stack.of(part)
        with torch.no_grad():
            points = minimum(stack.state()).points
        for place, problem in enumerate(part):
            apart = [stack.of_disjuncts(place, each[place]) for each in points]
            result[places[id(problem)]] = list(zip(*apart, strict=True))

    in_parts([problem for problem in problems if problem.bounds], collect, lambda problem, error: True)
    return result


def in_parts(
    problems: Sequence[Problem],
    work: Callable[[Sequence[Problem]], None],
    settled: Callable[[Problem, Exception], bool] = lambda problem, error: False,
) -> dict[int, Exception]:
    """Does `work` with all problems that are not decided; what goes wrong is tried again with halves, until it is a
    problem's own. Returns what went wrong, by the place of the problem, unless `settled` has dealt with it."""
    faults: dict[int, Exception] = {}

    def attempt(places: Sequence[int]) -> None:
        if not places:
            return
        try:
            work([problems[place] for place in places])
            return
        except (IRVerifyError, BoundsFault) as error:
            reason: Exception = error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = error
        if len(places) == 1:
            if not settled(problems[places[0]], reason):
                faults[places[0]] = reason
            return
        half = len(places) // 2
        for part in (places[:half], places[half:]):
            attempt([place for place in part if not problems[place].decided])

    attempt([place for place, problem in enumerate(problems) if not problem.decided])
    return faults

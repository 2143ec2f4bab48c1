"""A network, a region and a property as mixed-integer programs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from irverify.autocast import without_autocast
from irverify.backends.milp.distances import Nearest, distance
from irverify.backends.milp.encoding import Bounds, Encoding, nonlinear
from irverify.backends.milp.integers import whole
from irverify.backends.milp.margins import bound_to, margins, violated, worst
from irverify.backends.milp.model import Floats, MilpModel
from irverify.backends.milp.names import ObjectiveName, objective_of
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from irverify.errors import PropertyError, UsageError
from irverify.ir.graph import Graph
from irverify.properties import Property

Objective: TypeAlias = "ObjectiveName | Nearest"

TOLERANCE = 1e-5
"""By how much a solver may be wrong, relative to the largest magnitude of an output (at least 1): ten times what rows
and bounds may be broken by. Without it there is no proof: HiGHS has been seen to return "optimal" with a dual bound
1.2e-5 above the margin of a true execution, where outputs are up to 29."""


@without_autocast()
def formulate(graph: Graph, region: Any, prop: Property, bounds: Bounds | None = None) -> Formulation:
    """The exact mixed-integer formulation of `prop` for one example of `region` (paper 1, sec. 3.1; Tjeng et al. 2019).

    Each affine value z = W x + b is variables with one equality row; elements whose bounds settle a piecewise linear
    function need no binary. `bounds` (value name -> (lower, upper) of this one example) make the big-M constants; they
    are intersected with interval bounds over the variables. l2 balls are replaced by a polytope around them.

    Raises UnsupportedError listing all nodes without an exact encoding, or where a big-M would be infinite.
    """
    started = time.perf_counter()
    prop = bound_to(prop, graph)
    encoding = Encoding(graph, region, bounds)
    for node in encoding.pending():
        encoding.add(node)
    return Formulation(encoding, prop, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class Statistics:
    """The size of a program: rows, columns, how many of these are binary, nonzeros; `unstable`: node -> how many of its
    elements have bounds that leave open which piece is meant; `seconds` that it took to build."""

    rows: int
    columns: int
    binaries: int
    nonzeros: int
    unstable: dict[str, int]
    seconds: float


@dataclass(frozen=True, eq=False)
class Formulation:
    """The rows of a network over a region, and the programs that a property makes of them.

    A disjunct of the violation is satisfied where the largest of its margins `A x + C y + d` is <= 0. `model` minimises
    the smallest over all disjuncts; `program` makes the others.
    """

    encoding: Encoding
    prop: Property
    seconds: float

    @property
    def model(self) -> MilpModel:
        """The whole property: minimise t; with a binary for each disjunct, exactly one of which is 1, t is at least
        each margin of that one. The optimum is <= 0 exactly where the property can be violated."""
        return self._whole.model

    @property
    def rows(self) -> sparse.csr_array:
        return self.model.rows

    @property
    def statistics(self) -> Statistics:
        """Of `model`."""
        return self._whole.statistics

    @cached_property
    def tolerance(self) -> float:
        """`TOLERANCE` in the units of the outputs, by their bounds: what a margin must exceed to be proved by a solver
        that computes in floating point."""
        sides = [side for name in self.encoding.graph.outputs for side in self.encoding.bounds(name)]
        return TOLERANCE * max(1.0, *(float(np.abs(side).max()) for side in sides))

    def program(
        self, objective: Objective = "margin", *, disjunct: int | None = None, tolerance: float | None = None
    ) -> Program:
        """The program of one objective, over all disjuncts or over one of them:

        - `margin`: the smallest over the disjuncts of the largest of their margins;
        - `feasibility`: nothing is minimised; all margins of a disjunct are <= `tolerance` (None: that of the
          formulation, so that a solver's tolerance does not make the answer);
        - `nearest`, or a `Nearest`: the distance of an input at which they are <= `tolerance` (None: 0).

        Raises PropertyError where the violation has no disjuncts.
        """
        disjuncts = self.prop.disjuncts
        if not disjuncts:
            hint = "there is nothing to solve"
            raise PropertyError("the violation has no disjuncts: the property holds everywhere", hint=hint)
        if isinstance(objective, str):
            objective_of(objective)
        started = time.perf_counter()
        branch, target = self.encoding.branch(), None
        chosen = range(len(disjuncts)) if disjunct is None else (disjunct,)
        parts = [margins(branch, disjuncts[k], f"margin.{k}") for k in chosen]
        if objective == "margin":
            target = worst(branch, parts)
        elif objective == "feasibility":
            violated(branch, parts, self.tolerance if tolerance is None else tolerance)
        else:
            violated(branch, parts, 0.0 if tolerance is None else tolerance)
            target = distance(branch, objective if isinstance(objective, Nearest) else Nearest())
        model = branch.builder.build()
        model = model if target is None else model.minimize([target], [1.0])
        proof = self.tolerance if objective == "margin" else math.inf
        return Program(branch, model, proof, self.seconds + time.perf_counter() - started)

    def worst(self, index: int) -> MilpModel:
        """Minimise the largest margin of one disjunct."""
        return self.program("margin", disjunct=index).model

    def feasible(self, index: int, tolerance: float | None = None) -> MilpModel:
        """No objective; every margin of one disjunct is <= `tolerance` (None: that of the formulation)."""
        return self.program("feasibility", disjunct=index, tolerance=tolerance).model

    def hint(self, inputs: Sequence[Any]) -> Floats:
        """The values that all variables of `model` take for given network inputs: a solution of it, and a hint for
        `solve`. Other programs have their own, see `Program.hint`."""
        return self._whole.hint(inputs)

    def inputs(self, x: Floats) -> tuple[Tensor, ...]:
        """The network inputs of a solution of any of the programs, `[1, *shape]` in float64, moved into the region's
        box: candidates for a replay, no counterexamples yet."""
        lower, upper = self.encoding.builder.bounds()
        result = []
        for node in self.encoding.graph.inputs:
            columns = self.encoding.values[node.name].columns
            part = np.clip(x[columns], lower[columns], upper[columns])
            result.append(torch.from_numpy(part).reshape(1, *node.type.shape))
        return tuple(result)

    def solve(
        self,
        solver: SolverName = "highs",
        options: SolveOptions | None = None,
        *,
        objective: Objective = "margin",
        hint: Sequence[Any] | None = None,
    ) -> Solution:
        """Solves the program of an objective, from the inputs `hint` on where they are given. `Program.refuted` tells
        what refutes; `inputs` of a solution are a candidate.

        CP-SAT gets the violation as it stands for feasibility: its integer program has a slack of its own.
        """
        tolerance = 0.0 if objective == "feasibility" and solver == "cp-sat" else None
        program = self._whole if objective == "margin" else self.program(objective, tolerance=tolerance)
        return solve(program.model, solver, options, hint=None if hint is None else program.hint(hint))

    def write(self, path: str | os.PathLike[str], objective: Objective = "margin") -> None:
        """Writes the program of an objective to a file: .mps, .lp, or .pb for the MathOpt proto. FileError where that
        fails."""
        from irverify.backends.milp.files import write

        write((self._whole if objective == "margin" else self.program(objective)).model, path)

    @cached_property
    def _whole(self) -> Program:
        return self.program("margin")


@dataclass(frozen=True, eq=False)
class Program:
    """One mixed-integer program of a formulation. `tolerance` is what a bound of its objective must exceed to refute
    the violation (infinite where that is no margin); `seconds` that it took to build, the network's rows included."""

    encoding: Encoding
    model: MilpModel
    tolerance: float
    seconds: float

    @property
    def statistics(self) -> Statistics:
        rows, columns = self.model.size
        encoding = self.encoding
        unstable = {
            node.name: len(encoding.unstable(node)[0])
            for node in encoding.graph
            if node.name in encoding.needed and nonlinear(node)
        }
        return Statistics(rows, columns, int(self.model.integer.sum()), self.model.rows.nnz, unstable, self.seconds)

    @cached_property
    def resolution(self) -> float:
        """By how much the smallest margin must exceed the limit for CP-SAT to refute, given time (what the
        rounding of its integer program can add up to). UnsupportedError where there is no such program."""
        return whole(self.model).resolution

    def hint(self, inputs: Sequence[Any]) -> Floats:
        """The values that all variables take for given network inputs: a solution, where these violate the property
        or a margin is minimised."""
        nodes = self.encoding.graph.inputs
        flat = [torch.as_tensor(part, dtype=torch.float64).detach().cpu().reshape(-1).numpy() for part in inputs]
        sizes = [node.type.size for node in nodes]
        if [len(part) for part in flat] != sizes:
            raise UsageError(f"expected inputs of {sizes} elements, got {[len(part) for part in flat]}")
        return self.encoding.builder.complete({node.name: part for node, part in zip(nodes, flat, strict=True)})

    def refuted(self, solution: Solution) -> bool:
        """Whether a solver's answer shows that no input of the region satisfies the violation.

        Over whole numbers (`Solution.proves`) infeasibility shows it, or a positive bound of the smallest margin. In
        floating point only a bound above the tolerance does: solvers have called programs infeasible that are not.
        """
        is_margin = math.isfinite(self.tolerance)
        if solution.proves:
            return solution.status == "infeasible" or (is_margin and solution.dual_bound > 0)
        return solution.status in ("optimal", "feasible") and solution.dual_bound > self.tolerance and is_margin

"""A network, a region and a property as mixed-integer programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from irverify.backends.milp.encoding import Bounds, Encoding
from irverify.backends.milp.margins import bound_to, largest, margins, smallest
from irverify.backends.milp.model import Floats, MilpModel, ModelBuilder, Terms
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution, SolverName
from irverify.errors import PropertyError, UsageError
from irverify.ir.graph import Graph
from irverify.properties import Property

TOLERANCE = 1e-5
"""By how much a solver may be wrong, relative to the largest magnitude of an output (at least 1): ten times what rows
and bounds may be broken by. Without it there is no proof: HiGHS has been seen to return "optimal" with a dual bound
1.2e-5 above the margin of a true execution, where outputs are up to 29."""


def formulate(graph: Graph, region: Any, prop: Property, bounds: Bounds | None = None) -> Formulation:
    """The exact mixed-integer formulation of `prop` for one example of `region` (paper 1, sec. 3.1; Tjeng et al. 2019).

    Each affine value z = W x + b is variables with one equality row; elements whose bounds settle a piecewise linear
    function need no binary. `bounds` (value name -> (lower, upper) of this one example) make the big-M constants; they
    are intersected with interval bounds over the variables. l2 balls are replaced by a polytope around them.

    Raises UnsupportedError listing all nodes without an exact encoding, or where a big-M would be infinite.
    """
    prop = bound_to(prop, graph)
    encoding = Encoding(graph, region, bounds)
    for node in encoding.pending():
        encoding.add(node)
    return Formulation(encoding, prop)


@dataclass(frozen=True, eq=False)
class Formulation:
    """The rows of a network over a region, and the programs that a property makes of them.

    A disjunct of the violation is satisfied where the largest of its margins `A x + C y + d` is <= 0. `worst(k)`
    minimises that margin, `feasible(k)` asks for a point where it is <= 0, `model` minimises the smallest over all
    disjuncts.
    """

    encoding: Encoding
    prop: Property

    @cached_property
    def model(self) -> MilpModel:
        """The whole property: minimise t; with a binary for each disjunct, exactly one of which is 1, t is at least
        each margin of that one. The optimum is <= 0 exactly where the property can be violated."""
        builder = self._whole
        return builder.build().minimize([builder.variable_count - 1], [1.0])

    @property
    def rows(self) -> sparse.csr_array:
        return self.model.rows

    def worst(self, index: int) -> MilpModel:
        """Minimise the largest margin of one disjunct."""
        branch = self.encoding.branch()
        objective = largest(branch, margins(branch, self.prop.disjuncts[index]))
        return branch.builder.build().minimize([objective], [1.0])

    @cached_property
    def tolerance(self) -> float:
        """`TOLERANCE` in the units of the outputs, by their bounds: what a margin must exceed to be proved by a
        solver."""
        sides = [side for name in self.encoding.graph.outputs for side in self.encoding.bounds(name)]
        return TOLERANCE * max(1.0, *(float(np.abs(side).max()) for side in sides))

    def feasible(self, index: int, tolerance: float | None = None) -> MilpModel:
        """No objective; every margin of one disjunct is <= `tolerance` (None: that of the formulation). Where that is
        infeasible, the disjunct is refuted."""
        branch = self.encoding.branch()
        parts = margins(branch, self.prop.disjuncts[index])
        limit = self.tolerance if tolerance is None else tolerance
        branch.builder.rows("violated", [Terms(parts)], -np.inf, np.full(len(parts), limit))
        return branch.builder.build()

    def point(self, inputs: Sequence[Any]) -> Floats:
        """The values that all variables of `model` take for given network inputs: a solution, or a hint for `solve`."""
        return self._whole.complete(self._given(inputs))

    def inputs(self, x: Floats) -> tuple[Tensor, ...]:
        """The network inputs of a solution of any of the models, `[1, *shape]` in float64, moved into the region's box:
        candidates for a replay, no counterexamples yet."""
        lower, upper = self.encoding.builder.bounds()
        result = []
        for node in self.encoding.graph.inputs:
            columns = self.encoding.values[node.name].columns
            part = np.clip(x[columns], lower[columns], upper[columns])
            result.append(torch.from_numpy(part).reshape(1, *node.type.shape))
        return tuple(result)

    def solve(self, solver: SolverName = "highs", options: SolveOptions | None = None) -> Solution:
        """Solves `model`: verified where the dual bound is above `tolerance`; where the objective is <= 0, `inputs` of
        the solution are a candidate."""
        return solve(self.model, solver, options)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes `model` to a file: .mps, .lp, or .pb for the MathOpt proto. FileError where that fails."""
        from irverify.backends.milp.files import write

        write(self.model, path)

    @cached_property
    def _whole(self) -> ModelBuilder:
        """The builder of `model`; its objective is its last variable."""
        if not self.prop.disjuncts:
            raise PropertyError(
                "the violation has no disjuncts: the property holds everywhere, there is nothing to solve"
            )
        branch = self.encoding.branch()
        parts = [margins(branch, disjunct, f"margin.{k}") for k, disjunct in enumerate(self.prop.disjuncts)]
        if len(parts) == 1:
            largest(branch, parts[0])
        else:
            smallest(branch, parts)
        return branch.builder

    def _given(self, inputs: Sequence[Any]) -> dict[str, Floats]:
        nodes = self.encoding.graph.inputs
        flat = [torch.as_tensor(part, dtype=torch.float64).reshape(-1).numpy() for part in inputs]
        sizes = [node.type.size for node in nodes]
        if [len(part) for part in flat] != sizes:
            raise UsageError(f"expected inputs of {sizes} elements, got {[len(part) for part in flat]}")
        return {node.name: part for node, part in zip(nodes, flat, strict=True)}

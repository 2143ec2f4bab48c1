"""What goes to a solver process and what comes back. Light to import: a solver process needs nothing but these and
OR-Tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from irverify.backends.milp.integers import IntegerModel
from irverify.backends.milp.model import Flags, Floats, Indices, MilpModel

SolverName: TypeAlias = Literal["scip", "highs", "cp-sat"]
Status: TypeAlias = Literal["optimal", "infeasible", "feasible", "no_solution", "unknown"]


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver said. Nothing else than `status` says whether something was decided:

    - `optimal`: x is a best solution; `infeasible`: there is none. For HiGHS and SCIP both within their tolerances
      (rows and bounds may be broken by 1e-6), in floating point.
    - `feasible`: stopped at a limit with a solution; `no_solution`: stopped at a limit without one.
    - `unknown`: everything else, such as an unbounded problem or numerical trouble.

    `dual_bound` is what the solver holds to be a lower bound of the optimum (-inf where it has none): no proof by
    itself, but only beyond a margin (see `Formulation.tolerance`).

    Where `proves` is True (CP-SAT, over whole numbers and with outward slack), `infeasible` and `dual_bound` hold for
    the program in real arithmetic. Then x is only near its solutions: it may break rows by the slack, and `optimal` and
    `objective` speak of the whole numbers.
    """

    status: Status
    objective: float | None
    dual_bound: float
    x: Floats | None
    seconds: float
    solver: SolverName
    message: str = ""
    proves: bool = False


@dataclass(frozen=True, eq=False)
class SolveTask:
    """Solve one model; answered by a `Solution`."""

    model: MilpModel
    solver: SolverName
    deadline: float | None = None
    """In the time of `time.time`, so that the start of the process counts."""
    threads: int = 1
    seed: int | None = None
    hint: Floats | None = None
    first_solution: bool = False
    """Stop at the first solution found."""
    sign_only: bool = False
    """Stop when the sign of the optimum is known."""


@dataclass(frozen=True, eq=False)
class IntegerTask:
    """Solve one integer program; answered by a `WholeSolution`."""

    model: IntegerModel
    deadline: float | None = None
    threads: int = 1
    seed: int | None = None
    hint: Indices | None = None
    first_solution: bool = False


@dataclass(frozen=True, eq=False)
class WholeSolution:
    """What a solver said of an integer program: `x` where it has one, `bound` of the integer objective from below."""

    status: Status
    x: Indices | None
    bound: float
    seconds: float
    message: str


@dataclass(frozen=True, eq=False)
class LpTask:
    """Lower and upper bounds of variables `targets` over a continuous model; answered by an `LpBounds`.

    `lower` and `upper` are what is known of them already. A target is settled, and not worked on any more, once its
    bounds do not have its entry of `knots` strictly between them; NaN is never settled. `sides` `[targets, 2]` says
    whether the lower and the upper bound are asked for; with `signs` a side is asked only until a point of the
    relaxation shows that it settles nothing.
    """

    model: MilpModel
    targets: Indices
    lower: Floats
    upper: Floats
    knots: Floats
    sides: Flags
    signs: bool
    deadline: float


@dataclass(frozen=True, eq=False)
class LpBounds:
    """Rigorous bounds for the model as it stands, never looser than those known before; `solved` counts linear
    programs, `finished` says whether time sufficed for all of them."""

    lower: Floats
    upper: Floats
    solved: int
    finished: bool


Task: TypeAlias = SolveTask | IntegerTask | LpTask
Answer: TypeAlias = Solution | WholeSolution | LpBounds


@dataclass(frozen=True)
class Failure:
    """An exception in a solver process."""

    message: str

"""Programs by objective: distances known by hand, hints that are solutions, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from irverify.backends.milp.distances import Nearest
from irverify.backends.milp.formulation import Formulation, Objective, formulate
from irverify.backends.milp.names import NORMS, Norm
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.backends.milp.tasks import Solution
from irverify.errors import PropertyError, UsageError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.properties import Disjunct, Property
from irverify.regions import L1, L2, Box, Linf, Region
from tests.backends.milp.small_nets import SmallNet
from tests.backends.milp.test_formulation import replay


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def disjunct(*rows: tuple[float, ...]) -> Disjunct:
    """Rows (coefficients of the outputs, constant)."""
    table = torch.tensor(rows).double()
    return Disjunct(table[:, :-1], table[:, -1])


def sum_net(region: Region, *disjuncts: Disjunct) -> Formulation:
    """y = (relu(a + b), relu(a - b))."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64), name="x")
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    graph = builder.graph([builder.add(Relu(), builder.add(Linear(weight), x), name="y")])
    return formulate(graph, region, Property(disjuncts))


def square(reach: float = 2.0) -> Box:
    return Box(torch.full((1, 2), -reach).double(), torch.full((1, 2), reach).double())


def nearest(formulation: Formulation, objective: Objective, worker: Worker) -> float:
    solution = solve(formulation.program(objective).model, "highs", worker=worker)
    assert solution.status == "optimal" and solution.objective is not None and solution.x is not None
    assert replay(formulation, solution.x) <= 1e-5
    return solution.objective


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.5), ("l1", 1.0), ("l2", math.sqrt(0.5))])
def test_distances_by_hand(norm: Norm, expected: float, worker: Worker) -> None:
    """a + b >= 1 is nearest to 0 at (1/2, 1/2) by linf and l2; by l1 everything between there and the axes is."""
    formulation = sum_net(square(), disjunct((-1.0, 0.0, 1.0)))
    assert nearest(formulation, Nearest(norm), worker) == pytest.approx(expected, abs=1e-6)


def test_a_distance_from_a_given_centre_to_the_nearer_of_two_disjuncts(worker: Worker) -> None:
    """a + b >= 1, or both sums at least 2, which is a = 2; from (1.5, -1)."""
    formulation = sum_net(square(), disjunct((-1.0, 0.0, 1.0)), disjunct((-1.0, 0.0, 2.0), (0.0, -1.0, 2.0)))
    center = [np.array([1.5, -1.0])]
    assert nearest(formulation, Nearest("linf", center), worker) == pytest.approx(0.25, abs=1e-6)
    assert nearest(formulation, Nearest("l1", [torch.tensor([[2.0, -2.0]])]), worker) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (Linf(torch.zeros(1, 2).double(), 2.0, clip=(-0.4, 2.0)), 0.5),  # the centre is that of the ball
        (L1(torch.zeros(1, 2).double(), 2.0), 1.0),
        (L2(torch.zeros(1, 2).double(), 2.0), math.sqrt(0.5)),
    ],
)
def test_norm_and_centre_of_the_region(region: Region, expected: float, worker: Worker) -> None:
    formulation = sum_net(region, disjunct((-1.0, 0.0, 1.0)))
    assert nearest(formulation, "nearest", worker) == pytest.approx(expected, abs=1e-6)


def test_nothing_is_near(worker: Worker) -> None:
    formulation = sum_net(square(), disjunct((-1.0, 0.0, 4.5)))  # at most 4
    for objective in ("nearest", "feasibility"):
        program = formulation.program(objective)
        solution = solve(program.model, "highs", worker=worker)
        assert solution.status == "infeasible"
        assert not program.refuted(solution)  # in floating point this proves nothing
        assert program.refuted(solve(program.model, "cp-sat", worker=worker))


@pytest.mark.parametrize("objective", ["margin", "feasibility", *(Nearest(norm) for norm in NORMS)])
def test_hints_are_solutions(objective: Any) -> None:
    """At inputs that violate the property every variable of every program has a value."""
    for seed in range(40):
        net = SmallNet(seed)
        point = net.region.sample(1, torch.Generator().manual_seed(seed))[0]
        free = formulate(net.graph, net.region, net.prop)
        margin = replay(free, free.hint([point]))
        formulation = formulate(net.graph, net.region, net.shifted(-margin - 1e-9))
        program = formulation.program(objective)
        hint = program.hint([point])
        size = 1 + float(np.abs(hint).max())
        assert program.model.violation(hint) <= 1e-8 * size, seed
        integers = hint[program.model.integer]
        assert (integers == np.rint(integers)).all()
        if isinstance(objective, Nearest):
            apart = (point - net.region.center[0]).flatten()
            norm = torch.linalg.vector_norm(apart, {"linf": math.inf, "l1": 1, "l2": 2}[objective.norm or "linf"])
            value = float(program.model.objective @ hint)
            assert value <= float(norm) + 1e-9
            assert objective.norm == "l2" or value == pytest.approx(float(norm), abs=1e-9)


def test_the_solve_method() -> None:
    formulation = sum_net(square(), disjunct((-1.0, 0.0, 1.0)))
    given = [torch.tensor([[1.0, 1.0]])]
    options = SolveOptions(first_solution=True)
    assert formulation.solve("scip", options, objective="feasibility", hint=given).x is not None
    margin = formulation.solve("scip", objective="margin", hint=given)
    assert margin.objective == pytest.approx(-3.0)
    assert formulation.solve("cp-sat", objective="feasibility").proves


def test_what_refutes() -> None:
    """Only what is on the list."""
    formulation = sum_net(square(), disjunct((1.0, 0.0, 1.0)))
    margin, feasibility = formulation.program("margin"), formulation.program("feasibility")
    assert margin.tolerance == formulation.tolerance

    def said(status: Any, bound: float, proves: bool) -> Solution:
        return Solution(status, None, bound, None, 0.0, "cp-sat" if proves else "scip", "", proves)

    assert margin.refuted(said("optimal", 0.1, False)) and margin.refuted(said("feasible", 0.1, False))
    assert margin.refuted(said("no_solution", 1e-6, True)) and feasibility.refuted(said("infeasible", -math.inf, True))
    for bound in (0.0, formulation.tolerance, math.nan, -1.0):
        assert not margin.refuted(said("optimal", bound, False))
    assert not margin.refuted(said("infeasible", math.inf, False))
    assert not margin.refuted(said("unknown", math.inf, False))
    assert not margin.refuted(said("optimal", 0.0, True)) and not margin.refuted(said("optimal", math.nan, True))
    assert not feasibility.refuted(said("infeasible", math.inf, False))
    assert not feasibility.refuted(said("optimal", math.inf, True))


def test_statistics() -> None:
    statistics = sum_net(square(), disjunct((-1.0, 0.0, 1.0))).statistics
    assert (statistics.binaries, statistics.unstable) == (2, {"y": 2})
    assert statistics.columns == 2 + 2 + 2 + 2 + 1  # inputs, sums, ReLUs, binaries, the margin
    assert statistics.rows == 2 + 3 * 2 + 1
    assert statistics.nonzeros == 6 + (2 + 2 + 3) * 2 + 2
    assert 0 < statistics.seconds < 5


def test_errors() -> None:
    formulation = sum_net(square(), disjunct((-1.0, 0.0, 1.0)))
    with pytest.raises(UsageError, match=r"objectives margin, feasibility, nearest, got 'best'"):
        formulation.program("best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"norms linf, l1, l2, got 'l3'"):
        Nearest("l3")  # type: ignore[arg-type]
    for center in ([torch.zeros(3)], [torch.tensor([math.nan, 0.0])]):
        with pytest.raises(UsageError, match="centre"):
            formulation.program(Nearest(center=center))
    with pytest.raises(UsageError, match="expected inputs"):
        formulation.hint([torch.zeros(3)])
    with pytest.raises(PropertyError, match="no disjuncts"):
        sum_net(square()).program("nearest")

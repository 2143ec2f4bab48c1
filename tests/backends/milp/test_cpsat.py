"""Integer programs around a model: worked by hand, refused where they do not fit, hints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import sparse

from irverify.backends.milp import integers
from irverify.backends.milp.formulation import Formulation, formulate
from irverify.backends.milp.integers import whole
from irverify.backends.milp.model import MilpModel, ModelBuilder, Terms
from irverify.backends.milp.process import Worker
from irverify.backends.milp.solvers import SolveOptions, solve
from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.pipeline import run
from irverify.properties import Disjunct, Property
from irverify.regions import L1, Box, Region
from irverify.verify import Options
from irverify.verify.driver import problem_of, working
from irverify.verify.exact import search_exactly
from irverify.verify.problem import Clock


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def row(coefficients: list[float], lower: float, upper: float, reach: float = 1.0) -> MilpModel:
    """lower <= coefficients x <= upper for 0 <= x <= reach."""
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.full(len(coefficients), reach))
    builder.rows("row", [Terms(x, sparse.csr_array([coefficients]))], [lower], [upper])
    return builder.build()


def huge() -> MilpModel:
    builder = ModelBuilder()
    builder.variables("x", 0.0, [1e17], integer=True)
    return builder.build()


def test_a_row_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2 bits for values in [0, 1], S = 4; x / 2 - 3 y <= 1 / 4 has R = 8, so that C = (1, -6) are exact, and
    s = (1 + 6) / 2 and a little for rounding: X - 6 Y <= 2 + 3.5 rounded down."""
    monkeypatch.setattr(integers, "VALUE_BITS", 2)
    program = whole(row([0.5, -3.0], -np.inf, 0.25))
    assert program.scale.tolist() == [4.0, 4.0]
    assert program.rows.toarray().tolist() == [[1, -6]]
    assert program.row_upper.tolist() == [5]
    assert program.row_lower.tolist() == [-29]  # nothing beyond the bounds: |X| <= 4, |6 Y| <= 24
    assert (program.lower.tolist(), program.upper.tolist()) == ([0, 0], [4, 4])


def test_rounded_weights_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """x / 3 >= 1 / 4: with 4 bits for a term and S = 4, R is 2**5, C = rint(8 / 3) = 3, e = 1 / 3: X may be as small
    as (8 - 4 / 3 - 4 / 3) / 3, which is 1.8 and becomes 2."""
    monkeypatch.setattr(integers, "VALUE_BITS", 2)
    monkeypatch.setattr(integers, "TERM_BITS", 4)
    program = whole(row([1 / 3], 0.25, np.inf))
    assert program.rows.toarray().tolist() == [[3]]
    assert program.row_lower.tolist() == [6]  # 8 - 4 / 3 - 4 / 3 rounded up


def test_infeasible_by_less_than_the_slack_is_not_infeasible(worker: Worker) -> None:
    """x + y >= 2 + gap for x, y <= 1."""
    for gap, status in ((1e-2, "infeasible"), (1e-8, "optimal")):
        solution = solve(row([1.0, 1.0], 2 + gap, np.inf), "cp-sat", worker=worker)
        assert (solution.status, solution.proves) == (status, True)


def test_whole_programs_are_kept_as_they_are() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", -3.0, np.full(2, 7.0), integer=True)
    builder.rows("row", [Terms(x, sparse.csr_array([[2.0, -5.0]]))], [-4.0], [9.0])
    program = whole(builder.build().minimize(x, [3.0, 1.0]))
    assert program.rows.toarray().tolist() == [[2, -5]]
    assert (program.row_lower.tolist(), program.row_upper.tolist()) == ([-4], [9])
    assert (program.objective.tolist(), program.objective_scale) == ([3, 1], 1.0)
    assert program.bound(-11.0) == pytest.approx(-11.0, abs=1e-7)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (row([1.0], 0.0, 1.0, np.inf), r"finite bounds .* got \[0.0, inf\]"),
        (row([1e-300, 1e300], 0.0, 1.0), None),
        (row([1e308, 1e308], 0.0, 1.0, 1e308), "fit into 64-bit integers"),
        (huge(), "whole variables up to"),
    ],
)
def test_what_does_not_fit_is_refused(model: MilpModel, part: str | None) -> None:
    if part is None:
        assert np.abs(whole(model).rows.data).max() <= integers.ROW_LIMIT
        return
    with pytest.raises(UnsupportedError, match=part):
        whole(model)


def network(region: Region, constant: float) -> Formulation:
    """The margin relu(x + y) + relu(x - y) + constant, whose minimum over [-1, 1]^2 is 0 + constant."""
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64), name="x")
    hidden = builder.add(Relu(), builder.add(Linear(weight), x), name="relu")
    graph = builder.graph([builder.add(Linear(torch.ones(1, 2).double()), hidden, name="y")])
    disjunct = Disjunct(torch.ones(1, 1).double(), torch.tensor([constant]).double())
    return formulate(graph, region, Property((disjunct,)))


def unit_box() -> Box:
    return Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())


@pytest.mark.parametrize("region", [unit_box(), L1(torch.zeros(1, 2).double(), 1.0)])
def test_the_slack_says_what_is_decided(region: Region, worker: Worker) -> None:
    slack = network(region, 0.0).program("feasibility", tolerance=0.0).resolution
    assert 1e-7 < slack < 1e-4
    for constant, status in ((1.01 * slack, "infeasible"), (0.0, "optimal"), (-slack, "optimal")):
        formulation = network(region, constant)
        program = formulation.program("feasibility", tolerance=0.0)
        solution = solve(program.model, "cp-sat", worker=worker)
        assert solution.status == status
        assert program.refuted(solution) == (status == "infeasible")
        worst = solve(formulation.model, "cp-sat", worker=worker)
        assert worst.status == "optimal"
        assert constant - slack <= worst.dual_bound <= constant


def test_hints_become_whole() -> None:
    formulation = network(unit_box(), 1.0)
    hint = formulation.hint([torch.tensor([[0.3, -0.9]])])
    program = whole(formulation.model)
    activity = program.rows @ program.rounded(hint)
    assert bool(((activity >= program.row_lower) & (activity <= program.row_upper)).all())
    solution = formulation.solve("cp-sat", SolveOptions(seed=1), hint=[torch.tensor([[0.3, -0.9]])])
    assert solution.status == "optimal" and solution.x is not None
    assert solution.objective == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("least", "decided"), [(2.5, True), (1.5, False)])
def test_the_exact_stage_with_cp_sat(least: float, decided: bool) -> None:
    """y >= least is violated nowhere, or at (1, 0), where y = 2. No attack and no replay: only a proof could decide."""
    formulation = network(unit_box(), 0.0)
    prop = Property((Disjunct(-torch.ones(1, 1).double(), torch.tensor([least], dtype=torch.float64)),))
    graph = formulation.encoding.graph
    problem = problem_of(graph, working(graph), unit_box(), prop)
    problem.inner, problem.tolerance = None, 1e-9
    bounds = run(problem.work, "ibp", unit_box()).bounds
    problem.tightened = {name: (entry.lower[0].numpy(), entry.upper[0].numpy()) for name, entry in bounds.items()}
    search_exactly(problem, Clock(Options(solver="cp-sat", threads=1, timeout=60)))
    assert problem.decided == decided
    assert not decided or problem.proofs["milp (cp-sat)"] == (1e-9, 1e-9)

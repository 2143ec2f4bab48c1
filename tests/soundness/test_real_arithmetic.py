"""Bounds and verdicts against exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.backends.milp.process import Pool
from irverify.backends.milp.sequences import lp_bounds
from irverify.backends.milp.tasks import LpBounds, LpTask
from irverify.backends.milp.tightening import tighten
from irverify.errors import SolverError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Linear, Relu, Step
from irverify.ir.types import TensorType
from irverify.passes.outward import OutwardIbp
from irverify.pipeline import run
from irverify.properties import linear
from irverify.regions import Box
from irverify.verify import Options, verify
from irverify.verify.driver import problem_of, working
from irverify.verify.exact import search_exactly
from irverify.verify.problem import Clock
from tests.soundness.exact_nets import Exact, Path, exact_net

SEEDS = st.integers(0, 2**20)
SCALES = st.sampled_from([(-1.0, 1.0), (0.0, 3.0), (-3.0, 5.0)])


class Here(Pool):
    """Linear programs in this process, which is faster for small ones."""

    def __init__(self) -> None:
        super().__init__(1)

    def bounds(self, tasks: object) -> list[LpBounds]:
        return [lp_bounds(task) for task in tasks if isinstance(task, LpTask)]  # type: ignore[attr-defined]


def assert_inside(net: Exact, name: str, lower: Sequence[float], upper: Sequence[float], slack: Fraction) -> None:
    for element, (low, high) in enumerate(zip(lower, upper, strict=True)):
        least, greatest = net.paths[name].range(element)
        assert Fraction(low) - slack <= least, f"%{name}[{element}] goes below its bound"
        assert greatest <= Fraction(high) + slack, f"%{name}[{element}] goes above its bound"


@settings(max_examples=60)
@given(SEEDS, SCALES, st.booleans())
def test_intervals_rounded_outward_hold_with_no_tolerance_at_all(
    seed: int, scale: tuple[float, float], at_a_point: bool
) -> None:
    net = exact_net(seed, *scale)
    if at_a_point:
        region = Box(net.region.lower, net.region.lower)
        net = Exact(net.graph, region, {name: Path(path.ts[:1], path.values[:1]) for name, path in net.paths.items()})
    bounds = run(net.graph, (OutwardIbp(),), net.region).bounds
    for name in net.paths:
        assert_inside(net, name, bounds[name].lower[0].tolist(), bounds[name].upper[0].tolist(), Fraction(0))


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([(-1.0, 1.0), (0.0, 2.0)]))
def test_linear_programs_over_bounds_that_hold_hold(seed: int, scale: tuple[float, float]) -> None:
    net = exact_net(seed, *scale)
    bounds = run(net.graph, (OutwardIbp(),), net.region).bounds
    known = {name: (entry.lower[0], entry.upper[0]) for name, entry in bounds.items()}
    result = tighten(net.graph, net.region, known, pool=Here())
    largest = max(float(np.abs(side).max()) for pair in result.bounds.values() for side in pair)
    for name in net.paths:
        lower, upper = (side.reshape(-1).tolist() for side in result.bounds[name])
        assert_inside(net, name, lower, upper, Fraction(1e-12 * max(1.0, largest)))


@pytest.mark.parametrize("solver", ["highs", "scip"])
def test_the_exact_search_refutes_nothing_that_is_violated(solver: str) -> None:
    """No attack and no replay: only a proof could decide, and there is none. The weights are at most 31 and the values
    at most 1400, but HiGHS calls the violation infeasible although some points violate by 1e-4."""
    net = exact_net(469, -1.0, 1.0)
    least = float(net.output.range(0)[0])
    prop = linear(torch.ones(1, 1), torch.tensor([-(least + 1e-4)], dtype=torch.float64))
    problem = problem_of(net.graph, working(net.graph), net.region, prop)
    problem.inner = None
    bounds = run(problem.work, "ibp", net.region).bounds
    problem.tightened = {name: (entry.lower[0].numpy(), entry.upper[0].numpy()) for name, entry in bounds.items()}
    search_exactly(problem, Clock(Options(solver=solver, threads=1, timeout=20)))
    assert not problem.decided


def point(*entries: float) -> Box:
    tensor = torch.tensor([entries], dtype=torch.float64)
    return Box(tensor, tensor.clone())


def one_layer(weight: Sequence[float], *, step: bool = False) -> GraphBuilder:
    builder = GraphBuilder()
    x = builder.input(TensorType((len(weight),), torch.float64))
    y = builder.add(Linear(torch.tensor([weight], dtype=torch.float64)), x, name="y")
    if step:
        builder.add(Step(), y, name="step")
    return builder


def test_weights_that_cancel_are_no_proof() -> None:
    """In the reals y = -5; in float64 it is 0."""
    graph = one_layer([1e20, 1.0, -1e20]).graph(["y"])
    try:
        verdict = verify(graph, point(1.0, -5.0, 1.0), linear(torch.ones(1, 1), torch.ones(1))).verdict
    except SolverError:
        return  # HiGHS gives up on such coefficients, which proves nothing either
    assert verdict != "verified"


def test_a_step_is_not_decided_by_a_rounded_operand() -> None:
    """a + b - total is above 0 in the reals and 0 in float64."""
    a, b = 0.3101475693193326, 0.7298317482601286
    total = a + b
    assert Fraction(a) + Fraction(b) > Fraction(total)
    graph = one_layer([1.0, 1.0, -1.0], step=True).graph(["step"])
    bounds = run(graph, (OutwardIbp(),), point(a, b, total)).bounds["step"]
    assert (float(bounds.lower), float(bounds.upper)) == (0.0, 1.0)
    at_most_half = linear(-torch.ones(1, 1), torch.tensor([0.5]))
    assert verify(graph, point(a, b, total), at_most_half).verdict != "verified"


@pytest.mark.parametrize("analysis", ["crown", "improved-interval", "forward", "crown,ibp"])
def test_a_step_is_not_decided_by_a_tighter_bound_that_rounding_has_moved(analysis: str) -> None:
    """Behind three active ReLUs, y = (x + a) + (x + b) - (2 x + a + b rounded up) + 7e-9 < 0. Linear bounds see that x
    cancels, and in float64 so do a + b: their y is 7e-9."""
    a, b = 118094840.22148441, 118162206.58089072
    total = a + b
    assert Fraction(a) + Fraction(b) + Fraction(7e-9) < Fraction(total)
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    first = Linear(torch.tensor([[1.0], [1.0], [2.0]]).double(), torch.tensor([a, b, total], dtype=torch.float64))
    last = Linear(torch.tensor([[1.0, 1.0, -1.0]]).double(), torch.tensor([7e-9], dtype=torch.float64))
    y = builder.add(last, builder.add(Relu(), builder.add(first, x)))
    graph = builder.graph([builder.add(Step(), y, name="step")])
    region = Box(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    assert float(run(graph, analysis, region).bounds["step"].lower) == 0.0

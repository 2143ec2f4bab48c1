"""Splitting a box: it decides what a fine grid says, refutes nothing that is violated, and stops when told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.properties import Property, all_of, any_of, linear
from irverify.regions import L2, Box
from irverify.verify import Options
from irverify.verify.bounding import bound
from irverify.verify.driver import problem_of, working
from irverify.verify.problem import Clock, Problem
from irverify.verify.splitting import split, splits


def network(seed: int, inputs: int = 2, hidden: int = 6, outputs: int = 1) -> Graph:
    """Two hidden layers of random weights."""
    generator = torch.Generator().manual_seed(seed)
    builder = GraphBuilder()
    value = builder.input(TensorType((inputs,), torch.float64))
    for size in (hidden, hidden):
        weight = torch.randn(size, builder.type(value).size, generator=generator, dtype=torch.float64)
        bias = torch.randn(size, generator=generator, dtype=torch.float64)
        value = builder.add(Relu(), builder.add(Linear(weight, bias), value))
    last = torch.randn(outputs, hidden, generator=generator, dtype=torch.float64)
    return builder.graph([builder.add(Linear(last), value)])


def relu_sum() -> Graph:
    """y = relu(x1 + x2) + relu(x1 - x2): at most 2 on the unit box, where x1 = 1."""
    builder = GraphBuilder()
    hidden = builder.add(
        Linear(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()), builder.input(TensorType((2,), torch.float64))
    )
    return builder.graph([builder.add(Linear(torch.ones(1, 2).double()), builder.add(Relu(), hidden))])


def box(lower: list[float], upper: list[float]) -> Box:
    return Box(torch.tensor([lower]).double(), torch.tensor([upper]).double())


def problem(graph: Graph, region: Box, prop: Property) -> Problem:
    """With the bounds that the driver has before it splits, and without candidates."""
    result = problem_of(graph, working(graph), region, prop)
    result.inner = None
    for method in ("ibp", "crown"):
        if not result.decided:
            bound([result], method)
    return result


def grid(graph: Graph, region: Box, steps: int = 81) -> torch.Tensor:
    """The outputs at the points of a grid with the corners of the box, `[points, outputs]`."""
    axes = [
        torch.linspace(float(low), float(high), steps).double()
        for low, high in zip(*map(torch.Tensor.flatten, region.box()), strict=True)
    ]
    values = graph.evaluate(torch.cartesian_prod(*axes).reshape(-1, len(axes)))
    assert isinstance(values, torch.Tensor)
    return values


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20), level=st.floats(-0.5, 0.5))
def test_splitting_decides_what_a_grid_says(seed: int, level: float) -> None:
    """y <= largest value on the grid + level: violated for a negative level; it holds for a positive one that is more
    than the grid can miss."""
    graph, region = network(seed), box([-1.0, -1.0], [1.0, 1.0])
    values = grid(graph, region)
    top = float(values.max())
    asked = problem(graph, region, linear([[-1.0]], [top + level]))
    if not asked.decided:
        split(asked, Clock(Options(timeout=0.2 if level < 0 else 20.0)))
    if level < 0:
        assert not asked.decided
    if asked.decided:
        margin, tolerance = min(asked.proofs.values())
        assert margin > tolerance > 0 and float(values.max()) <= top + level
    steep = (values.reshape(81, 81).diff(dim=0).abs().max() + values.reshape(81, 81).diff(dim=1).abs().max()).item()
    if level > steep + 0.05:
        assert asked.decided


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20))
def test_a_conjunction_is_refuted_part_by_part(seed: int) -> None:
    """Violated where y1 > 0.3 and y2 > 0.3 at once, or where y1 < -9."""
    graph, region = network(seed, outputs=2), box([-1.0, -1.0], [1.0, 1.0])
    both = any_of(linear([[-1.0, 0.0]], [0.3]), linear([[0.0, -1.0]], [0.3]))
    asked = problem(graph, region, all_of(both, linear([[1.0, 0.0]], [9.0])))
    whole = asked.replay.prop
    if not asked.decided:
        split(asked, Clock(Options(timeout=0.3)))
    if asked.decided:
        assert not any(whole.violated(torch.zeros(2), y) for y in grid(graph, region)[::13])


def test_a_violation_is_found_and_replayed() -> None:
    """y = relu(x1 + x2) + relu(x1 - x2) reaches 2 where x1 = 1; linear bounds say 3."""
    graph = relu_sum()
    region = box([-1.0, -1.0], [1.0, 1.0])
    asked = problem_of(graph, working(graph), region, linear([[-1.0]], [1.999]))
    bound([asked], "crown")
    split(asked, Clock(Options()))
    assert asked.counterexample is not None and float(asked.counterexample.outputs[0].item()) > 1.999
    holds = problem(graph, region, linear([[-1.0]], [2.001]))
    split(holds, Clock(Options()))
    assert holds.decided and holds.proofs["split"][0] == pytest.approx(0.001, abs=1e-3)


def test_what_holds_with_equality_stays_open() -> None:
    """y <= its largest value: no part around the point where it is reached is ever refuted. Unless that point is met
    first, the clock ends it."""
    graph, region = relu_sum(), box([-1.0, -1.0], [1.0, 1.0])
    reached = problem_of(graph, working(graph), region, linear([[-1.0]], [2.0]))
    reached.tolerance = 1e-9
    split(reached, Clock(Options()))
    assert not reached.decided and reached.nearest
    blind = problem(network(3), region, linear([[-1.0]], [float(grid(network(3), region).max())]))
    clock = Clock(Options(timeout=0.5))
    split(blind, clock)
    assert not blind.decided and clock.stages[-1].seconds < 2.0


def test_which_problems_are_split() -> None:
    graph = network(0, inputs=20)
    prop = linear([[-1.0]], [1000.0])
    wide, narrow = [-1.0] * 20, [1.0] * 3 + [-1.0] * 17
    for region, expected in ((box(wide, [1.0] * 20), False), (box(wide, narrow), True), (box(wide, wide), False)):
        asked = problem_of(graph, working(graph), region, prop)
        asked.tolerance = 1e-9
        assert splits(asked) == expected
    round_ = problem_of(network(0), working(network(0)), L2(torch.zeros(1, 2).double(), 1.0), prop)
    round_.tolerance = 1e-9
    assert not splits(round_)

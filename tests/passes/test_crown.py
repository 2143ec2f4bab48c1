"""Backward linear bounds: a network worked by hand, containment on random graphs, and what nests in what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Abs, Clip, LeakyRelu, Linear, Relu, Sigmoid, Tanh
from irverify.ir.types import TensorType
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, Choice, Relaxation
from irverify.pipeline import run
from irverify.regions import L1, L2, Box, Region
from tests.passes.test_soundness import check, slack
from tests.random_graphs import AFFINE, Kind, boxes, elementwise, graphs, max_pool, points

RELU: tuple[Kind, ...] = (elementwise(Relu()),) * 4
KINDS: tuple[Kind, ...] = (
    *AFFINE,
    *RELU,
    *(elementwise(op) for op in (LeakyRelu(0.1), LeakyRelu(2.0), Clip(-0.5, 1.0), Abs(), Sigmoid(), Tanh())),
    max_pool,
    max_pool,
)
ANALYSES = ("crown", "crown-zero", "fast-lin", "crown-ibp")


def worked_example() -> tuple[Graph, Region]:
    """x in [-1, 1]^2, a = (x1 + x2, x1 - x2), y = relu(a1) + relu(a2); both a in [-2, 2]."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64))
    a = builder.add(Linear(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()), x)
    y = builder.add(Linear(torch.tensor([[1.0, 1.0]]).double()), builder.add(Relu(), a), name="y")
    one = torch.ones(1, 2).double()
    return builder.graph([y]), Box(-one, one)


@pytest.mark.parametrize(
    ("analysis", "lower", "upper"),
    # Above: a / 2 + 1 for both, so that y <= (a1 + a2) / 2 + 2 = x1 + 2 <= 3. Below: slope 0 (adaptive too, since u =
    # -l is not u > -l) gives 0; slope 1/2 gives x1 >= -1, which the interval y >= 0 beats. Intervals alone say [0,
    # 4].
    [("crown", 0.0, 3.0), ("crown-zero", 0.0, 3.0), ("fast-lin", 0.0, 3.0), ("ibp", 0.0, 4.0)],
)
def test_worked_example(analysis: str, lower: float, upper: float) -> None:
    graph, region = worked_example()
    bounds = run(graph, analysis, region).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (lower, upper)


@pytest.mark.parametrize("choice", ["adaptive", "zero", "same"])
@pytest.mark.parametrize(
    "op",
    [
        Relu(), LeakyRelu(0.1), LeakyRelu(2.0), LeakyRelu(0.0), Abs(), Clip(-1.0, 1.0), Clip(0.0, 6.0),
        Clip(0.0, float("inf")), Clip(-float("inf"), 1.0), Sigmoid(), Tanh(),
    ],
    ids=str,
)  # fmt: skip
@given(center=st.floats(-8, 8), radius=st.floats(0, 12))
def test_lines_enclose_the_function(op: Relu, choice: Choice, center: float, radius: float) -> None:
    lower, upper = (torch.full((1, 1), end, dtype=torch.float64) for end in (center - radius, center + radius))
    builder = GraphBuilder()
    name = builder.add(op, builder.input(TensorType((1,), torch.float64)))
    rule = RELAXATIONS.find(type(op))
    assert rule is not None
    lines = rule(builder.node(name), [Interval(lower, upper)], choice)
    assert isinstance(lines, Relaxation)
    x = (lower + (upper - lower) * torch.linspace(0, 1, 301, dtype=torch.float64)[:, None]).clamp(lower, upper)
    y = op.evaluate(x)
    assert bool((lines.lower_slope * x + lines.lower_intercept <= y + 1e-12).all())
    assert bool((y <= lines.upper_slope * x + lines.upper_intercept + 1e-12).all())


@pytest.mark.parametrize("analysis", ANALYSES)
@given(data=st.data())
def test_sampled_values_lie_inside(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    check(graph, data.draw(boxes(graph)), analysis)


@pytest.mark.parametrize("ball", [L1, L2])
@given(data=st.data())
def test_balls(ball: type[L1 | L2], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS, inputs=1))
    center = data.draw(boxes(graph))[0].center
    regions = (ball(center, data.draw(st.sampled_from((0.0, 0.1, 1.0)))),)
    state = run(graph, "crown", regions)
    for inputs in points(graph, regions):
        for name, value in graph.values(inputs).items():
            entry, allowed = state.bounds[name], slack(state.bounds[name])
            assert bool(((entry.lower - allowed <= value) & (value <= entry.upper + allowed)).all())


@pytest.mark.parametrize("analysis", ANALYSES)
@given(data=st.data())
def test_never_looser_than_ibp(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    tight, loose = run(graph, analysis, regions).bounds, run(graph, "ibp", regions).bounds
    for name, entry in tight.items():
        allowed = slack(loose[name])
        assert bool((entry.lower >= loose[name].lower - allowed).all())
        assert bool((entry.upper <= loose[name].upper + allowed).all())


@given(data=st.data())
def test_a_batch_is_its_examples(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph, batch=3))
    together = run(graph, "crown", regions).bounds
    alone = run(graph, "crown", [region.select(1) for region in regions]).bounds
    for name, entry in together.items():
        assert torch.allclose(entry.lower[1:2], alone[name].lower, rtol=1e-9, atol=1e-9)
        assert torch.allclose(entry.upper[1:2], alone[name].upper, rtol=1e-9, atol=1e-9)

"""Linear bounds propagated forward: networks worked by hand, containment on random graphs, agreement with crown."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import (
    Add,
    Constant,
    Div,
    Exp,
    Linear,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Relu,
    Reshape,
    Sigmoid,
)
from irverify.ir.types import TensorType
from irverify.pipeline import run
from irverify.pipeline.rows import margins
from irverify.regions import L1, L2, Box, Linf, Region
from tests.passes.test_crown import worked_example
from tests.passes.test_soundness import assert_contains, check, slack
from tests.random_graphs import AFFINE, EVERYTHING, MONOTONE, boxes, graphs, points

DOUBLE = torch.float64


def row(*entries: float) -> torch.Tensor:
    return torch.tensor(entries, dtype=DOUBLE)


def interval(low: float, high: float, size: int = 1) -> Box:
    return Box(torch.full((1, size), low, dtype=DOUBLE), torch.full((1, size), high, dtype=DOUBLE))


@pytest.mark.parametrize("lower", ["adaptive", "zero", "same"])
def test_worked_example(lower: str) -> None:
    """As in crown's test: y <= (a1 + a2) / 2 + 2 = x1 + 2 <= 3; below, slope 0 gives 0 and slope 1/2 gives x1 >= -1,
    which the interval y >= 0 beats."""
    graph, region = worked_example()
    bounds = run(graph, f"forward{{lower={lower}}}", region).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (0.0, 3.0)


def test_where_forward_and_backward_differ() -> None:
    """y = relu(a) - relu(a) through two affine maps, a = x in [-1, 1]: backward the rows meet before the lines and give
    0; forward the planes of each are a / 2 + 1/2 above and 0 (slope 0) below, so that y in [-1, 1]."""
    builder = GraphBuilder()
    r = builder.add(Relu(), builder.input(TensorType((1,), DOUBLE)), name="r")
    twice = builder.add(Linear(row(1, 1)[:, None]), r)
    graph = builder.graph([builder.add(Linear(row(1, -1)[None]), twice, name="y")])
    forward, crown = (run(graph, name, interval(-1, 1)).bounds["y"] for name in ("forward", "crown"))
    assert (crown.lower.item(), crown.upper.item()) == (0.0, 0.0)
    assert (forward.lower.item(), forward.upper.item()) == (-1.0, 1.0)


@pytest.mark.parametrize(("lower", "analysis"), [("adaptive", "crown"), ("zero", "crown-zero"), ("same", "fast-lin")])
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), ball=st.sampled_from((Linf, L2, L1)))
def test_crown_on_one_hidden_layer(lower: str, analysis: str, seed: int, ball: type[Linf | L2 | L1]) -> None:
    """With one nonlinear layer between two affine maps both directions compose the same lines. (Over l2 and l1 balls
    crown leaves elements alone that the box hull closes; their tighter bounds may help the intervals of what follows.)
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator, dtype=DOUBLE) for size in ((6, 4), (3, 6))]
    builder = GraphBuilder()
    z = builder.add(Linear(weights[0], torch.randn(6, generator=generator, dtype=DOUBLE)), builder.input(
        TensorType((4,), DOUBLE)))  # fmt: skip
    graph = builder.graph([builder.add(Linear(weights[1]), builder.add(Relu(), z), name="y")])
    region = ball(torch.randn(2, 4, generator=generator, dtype=DOUBLE), 0.4)
    forward = run(graph, f"forward{{lower={lower}}}", region).bounds
    backward = run(graph, analysis, region).bounds
    if ball is Linf:
        torch.testing.assert_close(forward["y"].lower, backward["y"].lower)
        torch.testing.assert_close(forward["y"].upper, backward["y"].upper)
    assert bool((forward["y"].lower >= backward["y"].lower - 1e-9).all())
    assert bool((forward["y"].upper <= backward["y"].upper + 1e-9).all())


@pytest.mark.parametrize("lower", ["adaptive", "zero", "same"])
@settings(max_examples=30)
@given(data=st.data())
def test_sampled_values_lie_inside(lower: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    check(graph, data.draw(boxes(graph)), f"forward{{lower={lower}}}")


@settings(max_examples=30)
@given(data=st.data())
def test_in_single_precision(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE, dtype=torch.float32, max_nodes=6))
    check(graph, data.draw(boxes(graph)), "forward")


@pytest.mark.parametrize("ball", [L1, L2])
@settings(max_examples=30)
@given(data=st.data())
def test_balls(ball: type[L1 | L2], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING, inputs=1))
    regions: tuple[Region, ...] = (ball(data.draw(boxes(graph))[0].center, data.draw(st.sampled_from((0.0, 0.5)))),)
    state = run(graph, "forward", regions)
    for inputs in points(graph, regions):
        assert_contains(state.bounds, graph.values(inputs))


@settings(max_examples=30)
@given(data=st.data())
def test_never_looser_than_ibp(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    regions = data.draw(boxes(graph))
    tight, loose = run(graph, "forward", regions).bounds, run(graph, "ibp", regions).bounds
    for name, entry in tight.items():
        allowed = slack(loose[name])
        assert bool((entry.lower >= loose[name].lower - allowed).all())
        assert bool((entry.upper <= loose[name].upper + allowed).all())


@settings(max_examples=30)
@given(data=st.data())
def test_affine_graphs_are_bounded_exactly(data: st.DataObject) -> None:
    """Without nonlinear operators the planes are the values, and a box's bounds are attained at corners: backward rows
    say the same."""
    graph = data.draw(graphs(kinds=AFFINE))
    regions = data.draw(boxes(graph))
    forward, crown = run(graph, "forward", regions).bounds, run(graph, "crown", regions).bounds
    for name in graph.outputs:
        allowed = slack(crown[name])
        torch.testing.assert_close(forward[name].lower, crown[name].lower, rtol=0, atol=allowed)
        torch.testing.assert_close(forward[name].upper, crown[name].upper, rtol=0, atol=allowed)


@settings(max_examples=30)
@given(data=st.data())
def test_a_batch_in_parts_is_its_examples(data: st.DataObject) -> None:
    """Cut by memory (a megabyte holds few of these examples), and one by one."""
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE, max_nodes=6, shapes=((2, 6, 4),)))
    regions = data.draw(boxes(graph, batch=3))
    together = run(graph, "forward", regions).bounds
    parts = run(graph, "forward{memory=1}", regions).bounds
    alone = run(graph, "forward", [region.select(1) for region in regions]).bounds
    for name, entry in together.items():
        torch.testing.assert_close(parts[name].lower, entry.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(parts[name].upper, entry.upper, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone[name].lower, entry.lower[1:2], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone[name].upper, entry.upper[1:2], rtol=1e-9, atol=1e-9)


def test_too_many_inputs_are_refused() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2000,), DOUBLE))
    graph = builder.graph([builder.add(Relu(), x)])
    with pytest.raises(UnsupportedError, match=r"over 2000 inputs take about .* megabytes .*crown"):
        run(graph, "forward{memory=100}", interval(0, 1, 2000))


def test_margins_of_few_inputs() -> None:
    """Elision leaves one affine map behind the ReLUs: y0 - y1 = relu(x) - relu(x) = 0."""
    builder = GraphBuilder()
    r = builder.add(Relu(), builder.input(TensorType((1,), DOUBLE)))
    graph = builder.graph([builder.add(Linear(row(1, 1)[:, None]), r)])
    assert margins(graph, interval(-1, 1), 0, method="forward").tolist() == [[0.0, 0.0]]


def test_products_lie_between_planes() -> None:
    """y = x z - x on [1, 2]^2: x z >= x + z - 1 gives y >= z - 1 >= 0; above x z <= 2 x + z - 2 (or x + 2 z - 2)
    gives y <= x + z - 2 <= 2. Intervals say [-1, 3]."""
    builder = GraphBuilder()
    x, z = (builder.input(TensorType((1,), DOUBLE)) for _ in range(2))
    graph = builder.graph([builder.add(Add(), builder.add(Mul(), x, z), builder.add(Neg(), x), name="y")])
    bounds = run(graph, "forward", [interval(1, 2), interval(1, 2)]).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (0.0, 2.0)


@pytest.mark.parametrize(("op", "ends"), [(Mul(), (0.0, 0.0)), (Div(), (0.0, 0.0))], ids=str)
def test_known_factors_are_exact(op: Mul | Div, ends: tuple[float, float]) -> None:
    """x c - x c for a constant c (and x / c)."""
    builder = GraphBuilder()
    x, c = builder.input(TensorType((1,), DOUBLE)), builder.add(Constant(row(4)))
    first, second = builder.add(op, x, c), builder.add(Neg(), builder.add(op, x, c))
    graph = builder.graph([builder.add(Add(), first, second, name="y")])
    bounds = run(graph, "forward", interval(-1, 2)).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == ends


@pytest.mark.parametrize(("op", "ends"), [(Maximum(), (0.0, 0.0)), (Minimum(), (2.0, 2.0))], ids=str)
def test_certain_extremes_are_exact(op: Maximum | Minimum, ends: tuple[float, float]) -> None:
    """x in [0, 1]; max(x, x - 2) - x = 0, and min(x, x + 2) - x + 2 = 2."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), DOUBLE))
    other = builder.add(Linear(row(1)[None], row(-2 if isinstance(op, Maximum) else 2)), x)
    chosen = builder.add(op, x, other)
    rest = builder.add(Linear(row(-1)[None], row(0 if isinstance(op, Maximum) else 2)), x)
    graph = builder.graph([builder.add(Add(), chosen, rest, name="y")])
    bounds = run(graph, "forward", interval(0, 1)).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == ends


def test_a_maximum_over_a_window() -> None:
    """Window (x, x + 3) with x in [0, 1]: the second is certain, so that its planes are exact: max - x = 3."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), DOUBLE))
    pair = builder.add(Reshape((1, 2)), builder.add(Linear(row(1, 1)[:, None], row(0, 3)), x))
    largest = builder.add(Reshape((1,)), builder.add(MaxPool((2,), (1,), ((0, 0),), (1,)), pair))
    graph = builder.graph([builder.add(Add(), largest, builder.add(Neg(), x), name="y")])
    bounds = run(graph, "forward", interval(0, 1)).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (3.0, 3.0)


def test_without_lines_the_interval_serves() -> None:
    """An overflow to infinity is no fault of the planes."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), DOUBLE))
    e = builder.add(Exp(), x, name="e")
    graph = builder.graph([builder.add(Sigmoid(), builder.add(Neg(), e), name="y")])
    bounds = run(graph, "forward", interval(0, 1000)).bounds["y"]
    assert bounds.lower.item() == 0.0
    assert bounds.upper.item() == pytest.approx(torch.tensor(-1.0).double().sigmoid().item())


def test_gradients_follow_the_weights() -> None:
    """The derivatives of bounds by weights, against finite differences."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator, dtype=DOUBLE) for size in ((5, 3), (5, 5), (2, 5))]
    center = torch.randn(2, 3, generator=generator, dtype=DOUBLE)

    def ends(*parameters: torch.Tensor) -> torch.Tensor:
        builder = GraphBuilder()
        z = builder.input(TensorType((3,), DOUBLE))
        for parameter in parameters[:-1]:
            z = builder.add(Relu(), builder.add(Linear(parameter), z))
        graph = builder.graph([builder.add(Linear(parameters[-1]), z, name="y")])
        bounds = run(graph, "forward", Box(center - 0.5, center + 0.5)).bounds["y"]
        return torch.cat([bounds.lower, bounds.upper])

    for weight in weights:
        weight.requires_grad_()
    assert torch.autograd.gradcheck(ends, weights, fast_mode=True)

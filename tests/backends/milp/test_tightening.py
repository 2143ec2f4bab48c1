"""Linear programs tighten bounds: they hold, they are what the relaxation allows, and time limits are kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.backends.milp.encoding import Encoding, nonlinear
from irverify.backends.milp.formulation import formulate
from irverify.backends.milp.process import Pool, Worker
from irverify.backends.milp.solvers import solve
from irverify.backends.milp.tightening import tighten
from irverify.errors import SolverError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Conv, Linear, MaxPool, Relu, Reshape
from irverify.ir.types import TensorType
from irverify.properties import Disjunct, Property, robust
from irverify.regions import Box, Linf
from tests.random_graphs import AFFINE, PIECEWISE, boxes, graphs, points


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as shared:
        yield shared


def by_hand() -> tuple[Graph, Box]:
    """z = relu(x_0 + x_1) + relu(x_0 - x_1) on [-1, 1]^2, read by a ReLU after z - 2.5.

    Intervals say z <= 4; the triangle y <= z / 2 + 1 for both says z <= x_0 + 2 <= 3, so that z - 2.5 <= 0.5.
    """
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64), name="x")
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    y = builder.add(Relu(), builder.add(Linear(weight), x), name="r1")
    bias = torch.tensor([-2.5], dtype=torch.float64)
    z = builder.add(Linear(torch.ones(1, 2, dtype=torch.float64), bias), y, name="z")
    graph = builder.graph([builder.add(Relu(), z, name="out")])
    return graph, Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())


def test_bounds_by_hand(pool: Pool) -> None:
    graph, box = by_hand()
    result = tighten(graph, box, pool=pool)
    lower, upper = result.bounds["z"]
    assert lower.tolist() == pytest.approx([-2.5]) and upper.tolist() == pytest.approx([0.5])
    assert upper[0] >= 0.5 and lower[0] <= -2.5
    assert result.finished and result.open == {"r1": 2, "out": 1}
    assert result.solved == 2  # both sides of z; the intervals of the first layer are exact


def test_margins_by_hand(pool: Pool) -> None:
    """out <= chord of z in [-2.5, 0.5]: 0.5; so 1 - out >= 0.5 and 0.4 - out >= -0.1 by the relaxation."""
    graph, box = by_hand()
    rows = [Disjunct(-torch.ones(1, 1).double(), torch.tensor([constant]).double()) for constant in (1.0, 0.4)]
    result = tighten(graph, box, prop=Property(tuple(rows)), pool=pool)
    assert result.margins is not None
    np.testing.assert_allclose(result.margins, [0.5, -0.1], atol=1e-6)


def test_settled_elements_cost_nothing(pool: Pool) -> None:
    graph, box = by_hand()
    stable = {"z": (np.array([-2.0]), np.array([-0.5]))}
    result = tighten(graph, box, stable, pool=pool)
    assert result.solved == 0 and result.open == {"r1": 2, "out": 0}


def test_one_side_can_settle_an_element(pool: Pool) -> None:
    """With z - 3.5, the upper bound -0.5 settles it, and the lower one is not asked for."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64), name="x")
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    y = builder.add(Relu(), builder.add(Linear(weight), x))
    z = builder.add(Linear(torch.ones(1, 2).double(), torch.tensor([-3.5]).double()), y, name="z")
    graph = builder.graph([builder.add(Relu(), z)])
    result = tighten(graph, Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double()), pool=pool)
    assert result.solved == 1
    assert result.bounds["z"][1].tolist() == pytest.approx([-0.5])


@settings(max_examples=50)
@given(graphs(kinds=AFFINE + PIECEWISE + PIECEWISE), st.data())
def test_bounds_hold_and_are_not_looser(pool: Pool, graph: Graph, data: st.DataObject) -> None:
    regions = data.draw(boxes(graph, batch=1))
    result = tighten(graph, regions, pool=pool)
    encoding = Encoding(graph, regions, relaxed=True)
    for node in encoding.pending():
        encoding.add(node)
    assert result.finished
    for name in encoding.values:
        shape = graph[name].type.shape
        loose = [side.reshape(shape) for side in encoding.bounds(name)]
        lower, upper = result.bounds[name]
        size = 1e-9 * (1 + np.abs(loose).max(initial=0.0))
        assert (lower >= loose[0] - size).all() and (upper <= loose[1] + size).all()
        for inputs in points(graph, regions, count=3):
            value = graph.values(inputs)[name][0].numpy()
            assert (lower <= value + size).all() and (value <= upper + size).all()


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_bounds_are_those_of_the_whole_relaxation(pool: Pool, seed: int) -> None:
    """Cones and substitution lose nothing: every bound equals the optimum of the whole relaxed program, by HiGHS."""
    graph, region = convolutional(seed)
    encoding = Encoding(graph, region, tighten(graph, region, pool=pool).bounds, relaxed=True)
    rng = np.random.default_rng(seed)
    for node in encoding.pending():
        if nonlinear(node):
            value = encoding.values[node.inputs[0]]
            lower, upper = encoding.bounds(node.inputs[0])
            unstable = np.flatnonzero((lower < 0) & (upper > 0))
            model = encoding.builder.build()
            for at in rng.permutation(unstable)[:2].tolist():
                for sign, bound in ((1.0, lower[at]), (-1.0, -upper[at])):
                    best = solve(model.minimize([value.columns[at]], [sign * value.scale[at]]), worker=pool.workers[0])
                    assert best.objective == pytest.approx(bound, abs=1e-5 * (1 + abs(bound)))
        encoding.add(node)


def convolutional(seed: int) -> tuple[Graph, Linf]:
    """Two convolutions with a residual edge, max pooling and a dense layer."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    builder = GraphBuilder()
    x = builder.input(TensorType((1, 4, 4), torch.float64), name="x")
    same = (1, 1), ((1, 1), (1, 1))
    first = builder.add(Relu(), builder.add(Conv(randn(2, 1, 3, 3) / 3, randn(2), *same), x))
    second = builder.add(Conv(randn(2, 2, 3, 3) / 4, randn(2), *same), first)
    joined = builder.add(Relu(), builder.add(Add(), first, second))
    pooled = builder.add(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), joined)
    flat = builder.add(Reshape((8,)), pooled)
    graph = builder.graph([builder.add(Relu(), builder.add(Linear(randn(3, 8) / 3, randn(3)), flat), name="y")])
    return graph, Linf(randn(1, 1, 4, 4), 0.2)


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_relaxed_margins_are_below_exact_ones(pool: Pool, seed: int) -> None:
    graph, region = convolutional(seed)
    result = tighten(graph, region, prop=robust(0), pool=pool)
    assert result.margins is not None
    formulation = formulate(graph, region, robust(0), result.bounds)
    for index, margin in enumerate(result.margins.tolist()):
        exact = solve(formulation.worst(index), "scip", worker=pool.workers[0])
        assert exact.status == "optimal" and exact.objective is not None
        assert margin <= exact.objective + 1e-5 * (1 + abs(margin))


def test_without_time_bounds_stay(pool: Pool) -> None:
    graph, box = by_hand()
    prop = Property((Disjunct(torch.ones(1, 1).double(), torch.zeros(1).double()),))
    result = tighten(graph, box, prop=prop, time_limit=0.0, pool=pool)
    assert not result.finished and result.solved == 0
    assert result.bounds["z"][1].tolist() == pytest.approx([1.5])


def test_a_crash_is_an_error() -> None:
    graph, box = by_hand()
    with Pool(1) as own:
        tighten(graph, box, pool=own)
        worker: Worker = own.workers[0]
        assert worker._process is not None
        worker._process.kill()
        with pytest.raises(SolverError, match="signal 9"):
            tighten(graph, box, pool=own)
        assert tighten(graph, box, pool=own).finished

"""Where linear bounds are attained: by hand, inside the region, at the value of the bound, and the gap to the
network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import UsageError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.passes.gap import Gap, Gaps, minimum, relaxed_minimizers, row_values
from irverify.pipeline import run
from irverify.pipeline.rows import row_state
from irverify.properties import linear
from irverify.regions import L1, L2, Box, Linf
from tests.passes.test_crown import KINDS, worked_example
from tests.random_graphs import boxes, graphs


def test_by_hand() -> None:
    """y <= x1 + 2 on the worked example (crown above), so that -y is least at x1 = 1; x2 does not matter."""
    graph, region = worked_example()
    (points,) = relaxed_minimizers(graph, region, linear([[-1.0]], [0.0]))
    assert points.tolist() == [[[1.0, 0.0]]]


def test_affine_networks_have_no_gap_in_any_ball() -> None:
    """y = 3 x1 - 4 x2: the minimisers are the steepest points of the balls, with and without clipping."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64))
    graph = builder.graph([builder.add(Linear(torch.tensor([[3.0, -4.0]]).double()), x)])
    center, prop = torch.full((1, 2), 0.5).double(), linear([[1.0]], [0.0])
    expected = {
        Linf(center, 0.2): (0.3, 0.7),
        L2(center, 0.2): (0.38, 0.66),
        L1(center, 0.2): (0.5, 0.7),
        L1(center, 0.2, clip=(0, 0.6)): (0.4, 0.6),
        L2(center, 0.5, clip=(0, 0.9)): (0.2, 0.9),
    }
    for region, point in expected.items():
        (points,) = relaxed_minimizers(graph, region, prop)
        torch.testing.assert_close(points, torch.tensor([[point]]).double())
        assert bool(region.contains(points[:, 0]).all())


@pytest.mark.parametrize("ball", [None, L1, L2])
@settings(max_examples=25)
@given(data=st.data())
def test_points_attain_the_linear_bound(ball: type[L1 | L2] | None, data: st.DataObject) -> None:
    """On random graphs: inside the region, and the network there is at least the bound."""
    graph = data.draw(graphs(kinds=KINDS, max_nodes=6, inputs=2 if ball is None else 1))
    regions = data.draw(boxes(graph))
    if ball is not None:
        regions = (ball(regions[0].center, 0.3),)
    size = sum(graph[name].type.size for name in graph.outputs)
    rows = torch.randn(2, size, generator=torch.Generator().manual_seed(0)).double()
    state = row_state(graph, regions, linear(rows, [0.0, 0.0]), "crown")[1]
    found = minimum(state)
    below = state.bounds[state.graph.outputs[0]].lower
    for index in range(2):
        points = [part[:, index] for part in found.points]
        for region, point in zip(regions, points, strict=True):
            assert bool(region.contains(point).all())
        values = graph.values({node.name: point for node, point in zip(graph.inputs, points, strict=True)})
        value = torch.cat([values[name].reshape(2, -1) for name in graph.outputs], dim=1) @ rows[index]
        torch.testing.assert_close(row_values(state, found.points)[:, index], value, rtol=1e-9, atol=1e-9)
        assert bool((value >= torch.maximum(found.bound, below)[:, index] - 1e-9 * value.abs().clamp(min=1)).all())


def test_gap_by_hand() -> None:
    """Fast-Lin on the worked example: y >= x1 >= -1 at x1 = -1, where y(-1, 0) = 0: d = 1; and -y >= -x1 - 2 >= -3 at
    x1 = 1, where -y(1, 0) = -2: d = 1."""
    graph, region = worked_example()
    rows = torch.tensor([[[1.0], [-1.0]]]).double(), torch.zeros(1, 2).double()
    state = run(graph, "fast-lin,gap{lines=fast-lin}", region, spec=rows)
    facts = state.require(Gap("fast-lin"))
    assert isinstance(facts, Gaps)
    assert facts.bound.tolist() == [[-1.0, -3.0]]
    assert facts.points[0].tolist() == [[[-1.0, 0.0], [1.0, 0.0]]]
    assert facts.gap.tolist() == [[1.0, 1.0]]
    assert state.timings[-1].statistics == {"mean_gap": 1.0, "max_gap": 1.0}


def test_gap_is_differentiable() -> None:
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double().requires_grad_()
    builder = GraphBuilder()
    hidden = builder.add(Relu(), builder.add(Linear(weight), builder.input(TensorType((2,), torch.float64))))
    graph = builder.graph([builder.add(Linear(torch.ones(1, 2).double()), hidden)])
    rows = torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double()
    state = run(graph, "crown-ibp,gap", Box(-torch.ones(1, 2).double(), torch.full((1, 2), 2.0).double()), spec=rows)
    facts = state.require("gap")
    assert isinstance(facts, Gaps)
    facts.gap.sum().backward()
    assert weight.grad is not None and bool(weight.grad.isfinite().all())


def test_a_graph_without_specification_is_a_usage_error() -> None:
    graph, region = worked_example()
    with pytest.raises(UsageError, match=r"expected a specification as the only output, got %y"):
        run(graph, "crown,gap", region)

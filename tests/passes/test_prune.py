"""Pruning by hand, and the bound of what it changes: never exceeded at sampled points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.backends.torch import BoundGraph
from irverify.errors import UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Conv, ConvTranspose, Linear, Relu
from irverify.ir.params import value
from irverify.ir.types import TensorType
from irverify.passes.change import largest
from irverify.passes.prune import EXAMPLES, PruneRelus, PruneWeights, prune_relus
from irverify.pipeline import Bounds, State, margins, optimize, run
from irverify.regions import Box
from tests.random_graphs import EVERYTHING, PIECEWISE, boxes, conv, graphs, linear, points


def network() -> Graph:
    """`y = relu(x + 0.25) - 0.5 relu(0.5 x - 2) + relu(-x)`."""
    builder = GraphBuilder("small")
    x = builder.input(TensorType((1,), torch.float64))
    weight = torch.tensor([[1.0], [0.5], [-1.0]], dtype=torch.float64)
    a = builder.add(Linear(weight, torch.tensor([0.25, -2.0, 0.0], dtype=torch.float64)), x, name="a")
    r = builder.add(Relu(), a, name="r")
    return builder.graph([builder.add(Linear(torch.tensor([[1.0, -0.5, 1.0]], dtype=torch.float64)), r, name="y")])


def box(lower: float, upper: float, batch: int = 1) -> Box:
    ends = torch.tensor([[lower], [upper]], dtype=torch.float64)
    return Box(ends[:1].repeat(batch, 1), ends[1:].repeat(batch, 1))


def weights(graph: Graph) -> list[list[list[float]]]:
    return [value(node.op.weight).tolist() for node in graph if isinstance(node.op, Linear)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (PruneWeights(threshold=0.6), [[[1.0], [0.0], [-1.0]], [[1.0, 0.0, 1.0]]]),
        (PruneWeights(threshold=0.5), [[[1.0], [0.5], [-1.0]], [[1.0, -0.5, 1.0]]]),
        (PruneWeights(threshold=0.6, only="y"), [[[1.0], [0.5], [-1.0]], [[1.0, 0.0, 1.0]]]),
        (PruneWeights(sparsity=0.4), [[[1.0], [0.0], [-1.0]], [[1.0, 0.0, 1.0]]]),
        (PruneWeights(sparsity=0.2, over="network"), [[[1.0], [0.0], [-1.0]], [[1.0, -0.5, 1.0]]]),
    ],
)
def test_weights_by_hand(step: PruneWeights, expected: list[list[list[float]]]) -> None:
    assert weights(optimize(network(), step)) == expected


def change(state: State) -> float:
    """The bound without what it says for rounding."""
    found = float(state.timings[-1].statistics["output_change"])
    assert found - round(found, 6) > 0
    return round(found, 6)


def test_the_change_by_hand() -> None:
    """Over [0, 1], 0.5 x - 2 is inactive with and without its weight: only the second layer's -1 at relu(-x) = 0."""
    state = run(network(), "prune-weights{threshold=0.6}", box(0.0, 1.0))
    assert state.timings[-1].statistics["zeros_after"] == 2
    assert change(state) == 0.0
    # Over [5, 6] it is in [0.5, 1], and both weights go: relu(-2) * 0 instead of -0.5 (0.5 x - 2).
    state = run(network(), "prune-weights{threshold=0.6}", box(5.0, 6.0))
    assert change(state) == 0.5


@pytest.mark.parametrize("end", [torch.inf, torch.nan])
def test_a_change_without_bound_is_infinite(end: float) -> None:
    ends = torch.tensor([[0.5, end]])
    assert largest((Bounds(-ends, ends, "change"),)) == torch.inf


def test_relus_by_hand() -> None:
    """At 1 and 2 neuron 0 is active, the others are not. Over [-1, 2] that drops relu(-x) <= 1, and adds the negative
    part of x + 0.25, at least -0.75: the change is in [-1.75, 0]."""
    data = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    after = prune_relus(network(), data)
    x = torch.tensor([[-3.0], [5.0]], dtype=torch.float64)
    assert after.evaluate(x).tolist() == [[-2.75], [5.25]]  # type: ignore[union-attr]
    ends = torch.tensor([[[-0.5], [-1.0]], [[2.5], [2.0]]], dtype=torch.float64)
    state = run(network(), PruneRelus(), Box(*ends))
    assert state.timings[-1].statistics["pruned"] == 3
    assert change(state) == 1.75


def test_a_share_of_the_data_may_disagree() -> None:
    data = torch.tensor([[1.0], [2.0], [3.0], [-4.0]], dtype=torch.float64)
    relus = [node for node in prune_relus(network(), data, 0.0) if isinstance(node.op, Relu)]
    assert [node.type.size for node in relus] == [2]
    assert not [node for node in prune_relus(network(), data, 0.25) if isinstance(node.op, Relu)]


@pytest.mark.parametrize(
    "step",
    ["prune-weights", "prune-weights{threshold=1.0,sparsity=0.5}", "prune-weights{sparsity=1.0}",
     "prune-relus{share=0.5}", "prune-weights{threshold=-1.0}", "prune-weights{threshold=1.0,only=nobody}"],
)  # fmt: skip
def test_options_that_make_no_sense(step: str) -> None:
    with pytest.raises(UsageError):
        run(network(), step, box(0.0, 1.0))


def test_nothing_to_prune_changes_nothing() -> None:
    state = run(network(), "prune-weights{threshold=0.1}", box(0.0, 1.0))
    assert state.timings[-1].statistics["output_change"] == 0.0


def test_activity_is_counted_over_all_the_data() -> None:
    """The only example at which neuron 0 is inactive is behind the first portion."""
    data = torch.ones(EXAMPLES + 2, 1, dtype=torch.float64)
    data[-1] = -1.0
    relus = [node for node in prune_relus(network(), data) if isinstance(node.op, Relu)]
    assert [node.type.size for node in relus] == [2]


@pytest.mark.parametrize("data", [torch.zeros(0, 1).double(), [torch.zeros(2, 1).double()] * 2])
def test_data_that_do_not_fit(data: Tensor | list[Tensor]) -> None:
    with pytest.raises(UsageError, match="expected"):
        prune_relus(network(), data)


def test_activity_that_is_not_a_number_prunes_nothing() -> None:
    graph = network()
    assert prune_relus(graph, torch.full((3, 1), torch.nan, dtype=torch.float64)) is graph


def test_no_bounds_of_a_network_through_another_one() -> None:
    graph, region = network(), box(0.0, 1.0)
    for method in ("prune-weights{threshold=0.6},ibp", "prune-relus,crown"):
        with pytest.raises(UsageError, match="another function"):
            margins(graph, region, 0, method)
        with pytest.raises(UsageError, match="another function"):
            BoundGraph(graph, method=method)


def test_pruned_weights_follow_the_others_and_stay_zero() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0.1]]))
    builder = GraphBuilder("live")
    graph = builder.graph([builder.add(Linear(weight), builder.input(TensorType((2,))))])
    after = optimize(graph, "prune-weights{threshold=0.5}")
    with torch.no_grad():
        weight.add_(1.0)
    assert weights(after) == [[[2.0, 0.0]]]


@settings(max_examples=25)
@given(data=st.data())
def test_the_change_is_never_exceeded(data: st.DataObject) -> None:
    kinds = data.draw(st.sampled_from((EVERYTHING, (linear, conv) * 3 + PIECEWISE * 2)))
    graph = data.draw(graphs(kinds=kinds, max_nodes=10))
    regions = data.draw(boxes(graph))
    steps = (
        PruneWeights(threshold=0.3), PruneWeights(sparsity=0.5, over="network"), PruneRelus(share=0.3),
        PruneWeights(sparsity=0.5, over="channel"), PruneRelus(share=0.4, by="channel"),
    )  # fmt: skip
    state = run(graph, data.draw(st.sampled_from(steps)), regions)
    bound = float(state.timings[-1].statistics["output_change"])
    for point in points(graph, regions, count=3):
        before, now = graph.values(point), state.graph.values(point)
        for old, new in zip(graph.outputs, state.graph.outputs, strict=True):
            assert float((before[old] - now[new]).abs().max()) <= bound


def test_channels_are_pruned_whole() -> None:
    """Channel 0 is inactive but at one element of one of two inputs, 1 of 6; channel 1 is its opposite."""
    builder = GraphBuilder("conv")
    x = builder.input(TensorType((1, 1, 3), torch.float64))
    a = builder.add(Conv(torch.tensor([[[[1.0]]], [[[-1.0]]]], dtype=torch.float64)), x)
    r = builder.add(Relu(), a)
    graph = builder.graph([builder.add(Conv(torch.ones(1, 2, 1, 1, dtype=torch.float64)), r)])
    data = torch.tensor([[[[-1.0, -2.0, 3.0]]], [[[-1.0, -2.0, -3.0]]]], dtype=torch.float64)
    assert prune_relus(graph, data, 0.1, by="channel") is graph
    after = optimize(prune_relus(graph, data, 0.2, by="channel"), "compact")
    assert not [node for node in after if isinstance(node.op, Relu)]
    point = torch.tensor([[[[5.0, -6.0, 7.0]]]], dtype=torch.float64)
    assert after.evaluate(point).tolist() == [[[[-5.0, 6.0, -7.0]]]]  # type: ignore[union-attr]
    state = run(graph, "prune-relus{share=0.2,by=channel}", Box(data - 0.5, data + 0.5))
    assert state.timings[-1].statistics["pruned"] == 6
    assert change(state) == 7.0  # -x instead of |x|, where x is 3.5 at most


def test_weights_of_each_channel() -> None:
    """The smaller half of what makes each channel; the weight of a transposed convolution has inputs first."""
    weight = torch.tensor([[1.0, 2.0], [30.0, 4.0]], dtype=torch.float64)
    builder = GraphBuilder("channels")
    x = builder.input(TensorType((2, 1, 1), torch.float64))
    y = builder.add(Conv(weight.reshape(2, 2, 1, 1)), x)
    z = builder.add(ConvTranspose(weight.reshape(2, 2, 1, 1), padding=((0, 0), (0, 0))), x)
    after = optimize(builder.graph([y, z]), "prune-weights{sparsity=0.5,over=channel}")
    kept = [value(node.op.weight) for node in after if isinstance(node.op, Conv | ConvTranspose)]
    assert [weight.reshape(2, 2).tolist() for weight in kept] == [[[0.0, 2.0], [30.0, 0.0]], [[0.0, 0.0], [30.0, 4.0]]]


def test_convolutions_are_pruned_neuron_by_neuron() -> None:
    builder = GraphBuilder("conv")
    x = builder.input(TensorType((1, 1, 3), torch.float64))
    a = builder.add(Conv(torch.ones(1, 1, 1, 1, dtype=torch.float64)), x)
    graph = builder.graph([builder.add(Relu(), a)])
    data = torch.tensor([[[[1.0, -1.0, 2.0]]], [[[1.0, -1.0, -2.0]]]], dtype=torch.float64)
    after = prune_relus(graph, data)
    point = torch.tensor([[[[-5.0, 6.0, -7.0]]]], dtype=torch.float64)
    assert after.evaluate(point).tolist() == [[[[-5.0, 0.0, 0.0]]]]  # type: ignore[union-attr]

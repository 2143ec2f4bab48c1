"""Encodings keep every true execution: a forward evaluation satisfies all rows, and values are what the graph
computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.backends.milp.encoding import Encoding
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Abs, Clip, Exp, LeakyRelu, Linear, Maximum, MaxPool, Minimum, Operator, Relu, Sigmoid
from irverify.ir.types import TensorType
from irverify.regions import L1, L2, Box, Linf
from tests.random_graphs import AFFINE, PIECEWISE, boxes, graphs, points

SLACK = 1e-7


def encode(encoding: Encoding) -> Encoding:
    for node in encoding.pending():
        encoding.add(node)
    return encoding


def one_box(graph: Graph, *, data: st.DataObject) -> tuple[Box, ...]:
    return tuple(region for region in data.draw(boxes(graph, batch=1)) if isinstance(region, Box))


def check(encoding: Encoding, inputs: dict[str, Tensor]) -> None:
    """The point that belongs to `inputs` `[1, *shape]` satisfies everything, and values agree with evaluation."""
    x = encoding.builder.complete({name: part.reshape(-1).numpy() for name, part in inputs.items()})
    model = encoding.builder.build()
    scale = 1 + float(np.abs(x).max(initial=0.0))
    assert model.violation(x) <= SLACK * scale
    assert np.isin(x[model.integer], [0.0, 1.0]).all()
    expected = encoding.graph.values(inputs)
    for name, value in encoding.values.items():
        want = expected[name].reshape(-1).numpy()
        np.testing.assert_allclose(value.values(x), want, rtol=1e-9, atol=1e-9 * scale)
        lower, upper = encoding.bounds(name)
        assert (lower <= want + 1e-9 * scale).all() and (want <= upper + 1e-9 * scale).all()


@settings(max_examples=100)
@given(graphs(kinds=AFFINE + PIECEWISE + PIECEWISE), st.booleans(), st.data())
def test_true_executions_satisfy_all_rows(graph: Graph, relaxed: bool, data: st.DataObject) -> None:
    regions = one_box(graph, data=data)
    encoding = encode(Encoding(graph, regions, relaxed=relaxed))
    for inputs in points(graph, regions, count=3):
        check(encoding, inputs)


@settings(max_examples=30)
@given(graphs(kinds=AFFINE + PIECEWISE + PIECEWISE), st.data())
def test_given_bounds_are_used(graph: Graph, data: st.DataObject) -> None:
    """With the tightest bounds that hold for one point, every ReLU is stable, and the point still satisfies
    everything."""
    regions = one_box(graph, data=data)
    inputs = points(graph, regions, count=1)[0]
    exact = {name: (value[0], value[0]) for name, value in graph.values(inputs).items()}
    encoding = encode(Encoding(graph, tuple(Box(part, part) for part in inputs.values()), exact))
    assert not any(block.name.endswith(".on") for block in encoding.builder.variable_blocks)
    check(encoding, inputs)


def single(op: Operator, size: int = 1, inputs: int = 1) -> Graph:
    builder = GraphBuilder()
    names = [builder.input(TensorType((size,), torch.float64), name=f"x{k}") for k in range(inputs)]
    return builder.graph([builder.add(op, *names, name="y")])


def interval(lower: list[float], upper: list[float]) -> Box:
    return Box(torch.tensor([lower], dtype=torch.float64), torch.tensor([upper], dtype=torch.float64))


def counts(encoding: Encoding) -> tuple[int, int, int]:
    """Numbers of variables, binaries and rows."""
    model = encoding.builder.build()
    return model.size[1], int(model.integer.sum()), model.size[0]


def test_relu_by_hand() -> None:
    """x in [-2, 3], unstable: 0 <= y <= 3 with y >= x, y <= 3 q, y <= x + 2 (1 - q)."""
    model = encode(Encoding(single(Relu()), interval([-2.0], [3.0]))).builder.build()
    assert model.variable_names() == ["x0(0)", "y(0)", "y.on(0)"]
    assert model.rows.toarray().tolist() == [[-1, 1, 0], [0, 1, -3], [-1, 1, 2]]
    assert model.row_lower.tolist() == [0, -np.inf, -np.inf]
    assert model.row_upper.tolist() == [np.inf, 0, 2]
    assert (model.lower.tolist(), model.upper.tolist()) == ([-2, 0, 0], [3, 3, 1])


def test_relaxed_relu_by_hand() -> None:
    """The triangle: y <= 3/5 (x + 2)."""
    model = encode(Encoding(single(Relu()), interval([-2.0], [3.0]), relaxed=True)).builder.build()
    np.testing.assert_allclose(model.rows.toarray(), np.array([[-1, 1], [-0.6, 1]]))
    np.testing.assert_allclose(model.row_upper, np.array([np.inf, 1.2]))
    assert not model.integer.any()


@pytest.mark.parametrize(
    ("op", "lower", "upper"),
    [
        (Relu(), [0.0, -2.0], [3.0, 0.0]),
        (LeakyRelu(0.1), [0.0, -2.0], [3.0, 0.0]),
        (LeakyRelu(1.0), [-1.0, -2.0], [3.0, 4.0]),
        (Abs(), [0.0, -2.0], [3.0, 0.0]),
        (Clip(-1.0, 1.0), [-1.0, 2.0], [1.0, 3.0]),
        (Clip(-1.0, 1.0), [-3.0, 1.0], [-1.0, 1.0]),
    ],
)
def test_stable_elements_cost_nothing(op: Operator, lower: list[float], upper: list[float]) -> None:
    assert counts(encode(Encoding(single(op, 2), interval(lower, upper)))) == (2, 0, 0)


def test_clip_costs_a_binary_for_each_limit_that_is_crossed() -> None:
    box = interval([-2.0, -2.0, 0.0], [2.0, 0.0, 2.0])
    _, binaries, _ = counts(encode(Encoding(single(Clip(-1.0, 1.0), 3), box)))
    assert binaries == 4


@pytest.mark.parametrize("op", [Maximum(), Minimum()])
def test_separated_operands_of_a_maximum_cost_nothing(op: Operator) -> None:
    boxes = (interval([0.0, 2.0], [1.0, 3.0]), interval([1.0, 0.0], [2.0, 1.0]))
    encoding = encode(Encoding(single(op, 2, inputs=2), boxes))
    assert counts(encoding) == (4, 0, 0)
    x = encoding.builder.complete({"x0": np.array([0.5, 2.5]), "x1": np.array([1.5, 0.5])})
    expected = [1.5, 2.5] if isinstance(op, Maximum) else [0.5, 0.5]
    assert encoding.values["y"].values(x).tolist() == expected


def test_max_pool_drops_what_cannot_win() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2), torch.float64), name="x")
    graph = builder.graph([builder.add(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x, name="y")])
    lower = torch.tensor([[[[0.0, 1.0], [-3.0, 0.5]]]], dtype=torch.float64)
    upper = torch.tensor([[[[0.9, 2.0], [1.0, 1.5]]]], dtype=torch.float64)
    model = encode(Encoding(graph, Box(lower, upper))).builder.build()
    assert [name for name in model.variable_names() if "pick" in name] == ["y.pick(1)", "y.pick(3)"]


def test_padding_of_max_pool_never_wins() -> None:
    """All inputs are negative, so that padding with 0 would show."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2), torch.float64), name="x")
    graph = builder.graph([builder.add(MaxPool((2, 2), (1, 1), ((1, 1), (1, 1)), (1, 1)), x, name="y")])
    center = torch.tensor([[[[-4.0, -3.0], [-2.0, -1.0]]]], dtype=torch.float64)
    encoding = encode(Encoding(graph, Linf(center, 0.9)))
    check(encoding, {"x": center})


@pytest.mark.parametrize("ball", [L1, L2])
def test_balls_hold_their_points(ball: type[L1] | type[L2]) -> None:
    graph = single(Relu(), 4)
    region = ball(torch.tensor([[0.2, -0.1, 0.0, 0.9]], dtype=torch.float64), 0.5, (0.0, 1.0))
    encoding = encode(Encoding(graph, region))
    for corners in (True, False):
        for inputs in region.sample(20, torch.Generator().manual_seed(0), corners=corners):
            check(encoding, {"x0": inputs})


def test_l1_ball_is_exact() -> None:
    graph = single(Linear(torch.ones(1, 3, dtype=torch.float64)), 3)
    encoding = encode(Encoding(graph, L1(torch.zeros(1, 3, dtype=torch.float64), 1.0)))
    model = encoding.builder.build()
    outside = encoding.builder.complete({"x0": np.array([0.5, 0.5, 0.5])})
    inside = encoding.builder.complete({"x0": np.array([0.5, -0.5, 0.0])})
    assert model.violation(outside) >= 0.5 - 1e-9
    assert model.violation(inside) <= 1e-9


def test_all_unsupported_nodes_are_listed() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2,)), name="x")
    first = builder.add(Sigmoid(), x, name="first", source='onnx node "S"')
    graph = builder.graph([builder.add(Exp(), builder.add(Relu(), first, name="fine"), name="second")])
    with pytest.raises(UnsupportedError) as caught:
        Encoding(graph, Linf(torch.zeros(1, 2), 0.1))
    assert len(caught.value.items) == 2
    assert "%first = sigmoid" in caught.value.items[0] and 'onnx node "S"' in caught.value.items[0]


def test_one_example_at_a_time() -> None:
    with pytest.raises(UsageError, match="one example"):
        Encoding(single(Relu()), Linf(torch.zeros(2, 1), 0.1))


def test_bounds_that_do_not_fit() -> None:
    graph, region = single(Relu(), 2), interval([-1.0, -1.0], [1.0, 1.0])
    with pytest.raises(UsageError, match="bounds of shape"):
        Encoding(graph, region, {"y": (np.zeros(3), np.ones(3))})
    with pytest.raises(UsageError, match="contradict"):
        Encoding(graph, region, {"x0": (np.full(2, 2.0), np.full(2, 3.0))})


def test_nan_bounds_say_nothing() -> None:
    nothing = np.full(2, np.nan)
    encoding = encode(Encoding(single(Relu(), 2), interval([-1.0, 2.0], [1.0, 3.0]), {"x0": (nothing, nothing)}))
    lower, upper = encoding.bounds("x0")
    assert (lower.tolist(), upper.tolist()) == ([-1, 2], [1, 3])


def test_overflow_refuses_the_encoding() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64), name="x")
    wide = builder.add(Linear(torch.tensor([[1e308], [1e308]], dtype=torch.float64)), x, name="wide")
    sums = builder.add(Linear(torch.ones(1, 2, dtype=torch.float64)), wide, name="sum")
    graph = builder.graph([builder.add(Relu(), sums, name="y")])
    with pytest.raises(UnsupportedError, match="finite bounds"):
        encode(Encoding(graph, Linf(torch.zeros(1, 1, dtype=torch.float64), 10.0)))

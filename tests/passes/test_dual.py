"""Dual networks: one worked by hand, their text, adjoints against the operators' own, and equality with Fast-Lin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.check import check as check_graph
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    Add,
    Clip,
    Concat,
    Conv,
    LeakyRelu,
    Linear,
    MaxPool,
    Operator,
    Relu,
    Reshape,
    Sigmoid,
    Slice,
    Sub,
)
from irverify.ir.text import named_parameters, parse_graph, print_graph
from irverify.ir.types import TensorType
from irverify.passes.dual_gaps import reaches, weighed
from irverify.passes.dual_network import dual_network, layer_operands
from irverify.passes.dual_rows import DualBounds
from irverify.passes.dual_windows import windowed_network
from irverify.passes.parallel import parallel_lines
from irverify.passes.propagate import Interval
from irverify.pipeline import State, run
from irverify.regions import L1, L2, Box, Region
from tests.passes.test_crown import worked_example
from tests.passes.test_soundness import check, slack
from tests.random_graphs import AFFINE, Kind, boxes, conv, elementwise, graphs, points

PIECEWISE: tuple[Operator, ...] = (
    Relu(), LeakyRelu(0.1), LeakyRelu(2.0), LeakyRelu(0.0), Abs(), Clip(-1.0, 1.0), Clip(-0.5, 1.0), Clip(0.0, 6.0),
    Clip(0.0, float("inf")), Clip(-float("inf"), 1.0),
)  # fmt: skip
KINDS: tuple[Kind, ...] = (
    *AFFINE,
    *(elementwise(Relu()),) * 4,
    *(elementwise(op) for op in (LeakyRelu(0.1), Clip(-0.5, 1.0), Abs())),
)


def operands_of(graph: Graph, state: State) -> dict[str, torch.Tensor]:
    """The runtime operands of dual networks that rest on the bounds of a state."""
    intervals = {name: Interval(bounds.lower, bounds.upper) for name, bounds in state.bounds.items()}
    found: dict[str, torch.Tensor] = {}
    for node in graph:
        found.update(layer_operands(node, intervals[node.name], [intervals[name] for name in node.inputs]))
    return found


def test_worked_example() -> None:
    """a = (x1 + x2, x1 - x2) in [-2, 2]^2: D = 1/2, nu_relu = (-1, -1), nu_a = (-1/2, -1/2), nu_x = (-1, 0); both
    h = -l [nu]_+ of c vanish (nu < 0), those of -c are 1 each: J(c) = min x1 = -1, -J(-c) = max x1 + 2 = 3."""
    graph, region = worked_example()
    network = dual_network(graph, "y")
    operands = operands_of(graph, run(graph, "ibp", region))
    lower, upper = region.box()
    ones = torch.ones(1, 1).double()
    nus, shift, gap = network.evaluate(ones, operands)
    assert nus["x"].tolist() == [[-1.0, 0.0]]
    assert (float(shift), float(gap)) == (-1.0, 1.0)
    radius = (upper - lower) / 2
    down, up = reaches(network, ones[None], operands, lambda name, nu: (weighed(nu, radius),) * 2, 1)
    assert (float(down), float(up)) == (2.0, 2.0)  # |nu_x| and |nu_relu|, times radii of 1 and 1/2 twice
    rest = DualBounds(graph, {"x": region}, operands)
    assert float(rest.center("y")) == 1.0
    assert [float(side) for side in rest.of("y", torch.ones(1, 1, dtype=torch.bool))] == [-1.0, 3.0]
    bounds = run(graph, "dual", region).bounds["y"]
    assert (float(bounds.lower), float(bounds.upper)) == (0.0, 3.0)  # y >= 0 by its interval


@pytest.mark.parametrize("op", PIECEWISE, ids=str)
@settings(max_examples=50)
@given(center=st.floats(-8, 8), radius=st.floats(0, 12))
def test_parallel_lines_enclose_the_function(op: Relu, center: float, radius: float) -> None:
    lower, upper = (torch.full((1,), end, dtype=torch.float64) for end in (center - radius, center + radius))
    lines = parallel_lines(op, lower, upper)
    x = (lower + (upper - lower) * torch.linspace(0, 1, 301, dtype=torch.float64)).clamp(lower, upper)
    distance = (op.evaluate(x) - (lines.slope * x + lines.middle)).abs()
    assert bool((distance <= lines.radius + 1e-12).all())
    assert float(distance.max()) >= float(lines.radius) - 0.1  # and no wider than they must be


@settings(max_examples=40)
@given(data=st.data())
def test_the_dual_network_is_a_graph(data: st.DataObject) -> None:
    """It passes the checker, and what it prints is read back as the same function."""
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    target = data.draw(st.sampled_from(graph.outputs))
    network = dual_network(graph, target)
    check_graph(network.graph)
    read = parse_graph(print_graph(network.graph), named_parameters(network.graph))
    assert print_graph(read) == print_graph(network.graph)
    operands = {name: part[:1] for name, part in operands_of(graph, run(graph, "ibp", regions)).items()}
    given = [operands.get(node.name, torch.ones(1, *node.type.shape).double()) for node in network.graph.operands]
    for ours, theirs in zip(network.graph.evaluate(*given), read.evaluate(*given), strict=True):
        assert torch.equal(ours, theirs)


@settings(max_examples=60)
@given(data=st.data())
def test_affine_graphs_have_their_adjoint(data: st.DataObject) -> None:
    """Without activations nu is minus the gradient, and the shift the value at 0."""
    graph = data.draw(graphs(kinds=AFFINE))
    target = data.draw(st.sampled_from(graph.outputs))
    network = dual_network(graph, target)
    zeros = {
        node.name: torch.zeros(1, *node.type.shape, dtype=torch.float64, requires_grad=True) for node in graph.inputs
    }
    value = graph.values(zeros)[target]
    rows = torch.randn_like(value)
    nus, shift, gap = network.evaluate(rows, {})
    inputs = [zeros[name] for name in network.inputs]
    for nu, expected in zip(nus.values(), torch.autograd.grad((rows * value).sum(), inputs), strict=True):
        torch.testing.assert_close(nu, -expected)
    torch.testing.assert_close(shift, -(rows * value).sum().detach().reshape(1))
    assert float(gap) == 0.0


@settings(max_examples=60)
@given(data=st.data())
def test_equals_fast_lin(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph, batch=data.draw(st.integers(1, 2))))
    dual, fast_lin = run(graph, "dual", regions).bounds, run(graph, "fast-lin", regions).bounds
    for name in graph.outputs:
        allowed = slack(fast_lin[name])
        torch.testing.assert_close(dual[name].lower, fast_lin[name].lower, rtol=0, atol=allowed)
        torch.testing.assert_close(dual[name].upper, fast_lin[name].upper, rtol=0, atol=allowed)


@settings(max_examples=40)
@given(data=st.data())
def test_sampled_values_lie_inside(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS))
    check(graph, data.draw(boxes(graph)), "dual")


@pytest.mark.parametrize("ball", [L1, L2])
@settings(max_examples=12)
@given(data=st.data())
def test_balls(ball: type[L1 | L2], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS, inputs=1))
    clip = data.draw(st.sampled_from((None, (-1.0, 1.0))))
    center = data.draw(boxes(graph))[0].center.clamp(-1, 1)
    regions = (ball(center, data.draw(st.sampled_from((0.0, 0.1, 1.0))), clip=clip),)
    dual, fast_lin = run(graph, "dual", regions).bounds, run(graph, "fast-lin", regions).bounds
    for inputs in points(graph, regions, count=3):
        for name, value in graph.values(inputs).items():
            allowed = slack(dual[name])
            assert bool(((dual[name].lower - allowed <= value) & (value <= dual[name].upper + allowed)).all())
    for name in graph.outputs:
        torch.testing.assert_close(dual[name].lower, fast_lin[name].lower, rtol=0, atol=slack(fast_lin[name]))


def residual(batch: int = 2) -> tuple[Graph, Region]:
    """Strided and padded convolutions, a residual block, a dense connection, and a linear layer."""
    generator = torch.Generator().manual_seed(1)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3

    def padded(out: int, channels: int) -> Conv:
        return Conv(tensor(out, channels, 3, 3), tensor(out), (1, 1), ((1, 1), (1, 1)))

    builder = GraphBuilder()
    x = builder.input(TensorType((1, 20, 18), torch.float64))
    first = builder.add(Relu(), builder.add(Conv(tensor(2, 1, 4, 4), tensor(2), (2, 2), ((1, 1), (1, 2))), x))
    inner = builder.add(padded(2, 2), builder.add(Relu(), builder.add(padded(2, 2), first)))
    block = builder.add(Relu(), builder.add(Add(), inner, first), name="block")
    dense = builder.add(padded(2, 4), builder.add(Concat(0), block, first), name="dense")
    shape = builder.type(builder.add(Relu(), dense, name="last")).shape
    flat = builder.add(Reshape((shape[0] * shape[1] * shape[2],)), "last")
    y = builder.add(Linear(tensor(3, builder.type(flat).size)), flat, name="y")
    center = torch.rand(batch, 1, 20, 18, generator=generator, dtype=torch.float64)
    return builder.graph([y]), Box(center - 0.01, center + 0.01)


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = residual()
    windowed = windowed_network(graph, "dense")
    assert windowed is not None
    assert windowed.network.graph["nu.x"].type.shape[1] < 20
    bounds = run(graph, "dual", region).bounds
    monkeypatch.setattr("irverify.passes.dual_sources.windowed_network", lambda primal, target: None)
    for name, whole in run(graph, "dual", region).bounds.items():
        torch.testing.assert_close(bounds[name].lower, whole.lower, rtol=0, atol=1e-12)
        torch.testing.assert_close(bounds[name].upper, whole.upper, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_equals_fast_lin_on_a_residual_network(batch: int) -> None:
    graph, region = residual(batch)
    dual, fast_lin = run(graph, "dual", region).bounds["y"], run(graph, "fast-lin", region).bounds["y"]
    torch.testing.assert_close(dual.lower, fast_lin.lower, rtol=0, atol=1e-11)
    torch.testing.assert_close(dual.upper, fast_lin.upper, rtol=0, atol=1e-11)


@settings(max_examples=40)
@given(data=st.data())
def test_windows_of_random_graphs(data: st.DataObject) -> None:
    kinds: tuple[Kind, ...] = (conv, conv, conv, elementwise(Relu()), elementwise(Clip(-0.5, 1.0)), *AFFINE)
    graph = data.draw(graphs(kinds=kinds, shapes=((1, 8, 8), (2, 6, 6)), inputs=1))
    regions = data.draw(boxes(graph))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("irverify.passes.dual_windows.WORTH", 100.0)
        windowed = run(graph, "dual", regions).bounds
        patch.setattr("irverify.passes.dual_sources.windowed_network", lambda primal, target: None)
        whole = run(graph, "dual", regions).bounds
    for name, bounds in whole.items():
        torch.testing.assert_close(windowed[name].lower, bounds.lower, rtol=0, atol=slack(bounds))
        torch.testing.assert_close(windowed[name].upper, bounds.upper, rtol=0, atol=slack(bounds))


def test_a_batch_is_its_examples() -> None:
    graph, region = residual(batch=3)
    together, alone = run(graph, "dual", region).bounds, run(graph, "dual", region.select(1)).bounds
    for name, bounds in together.items():
        torch.testing.assert_close(bounds.lower[1:2], alone[name].lower, rtol=0, atol=1e-12)


def test_follows_its_parameters() -> None:
    """Bounds are differentiable in the weights, and move with them."""
    weight = torch.tensor([[1.0, -2.0]]).double().requires_grad_()
    builder = GraphBuilder()
    hidden = builder.add(Relu(), builder.add(Linear(weight), builder.input(TensorType((2,), torch.float64))))
    graph = builder.graph([builder.add(Linear(torch.ones(1, 1).double()), hidden, name="y")])
    region = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    upper = run(graph, "dual", region).bounds["y"].upper
    (gradient,) = torch.autograd.grad(upper.sum(), weight)
    assert upper.item() == 3.0
    assert gradient.tolist() == [[1.0, -1.0]]
    with torch.no_grad():
        weight.mul_(2)
    assert run(graph, "dual", region).bounds["y"].upper.item() == 6.0


@pytest.mark.parametrize(
    "op", [Sigmoid(), MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))], ids=lambda op: op.name
)
def test_operators_without_a_linear_dual_layer_are_refused(op: Operator) -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2)))
    sliced = builder.add(Slice((0, 0, 0), (1, 2, 2), (1, 1, 1)), x)
    graph = builder.graph([builder.add(op, sliced, name="odd")])
    region = Box(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    with pytest.raises(UnsupportedError, match=r"%odd = .*no linear dual layer"):
        run(graph, "dual", region)


def test_an_overflow_on_the_way_says_nothing() -> None:
    """Sums of the dual network overflow where the intervals do not: these are kept."""
    builder = GraphBuilder()
    hidden = builder.add(Relu(), builder.add(Linear(torch.full((4, 1), 5e18)), builder.input(TensorType((1,)))))
    weight = torch.tensor([[1e20, 1e20, -1e20, -1e20]])
    graph = builder.graph([builder.add(Linear(weight), hidden, name="y")])
    bounds = run(graph, "dual", Box(-torch.ones(1, 1), torch.full((1, 1), 0.3))).bounds["y"]
    for x in (-1.0, 0.0, 0.15, 0.3):
        value = float((weight.double() @ (torch.full((4,), 5e18).double() * x).relu()).sum())
        assert float(bounds.lower) <= value <= float(bounds.upper)


def test_infinite_bounds_are_refused() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((1,)))
    for index in range(3):
        x = builder.add(Relu(), builder.add(Linear(torch.full((1, 1), 1e30)), x), name=f"r{index}")
    region = Box(-torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(UnsupportedError, match="infinite"):
        run(builder.graph([x]), "dual", region)


def test_values_that_intervals_know_exactly() -> None:
    """relu(x0 - x0) = 0 and relu(x1) = 2 for a point x1, although both depend on an input as far as the graph tells."""
    builder = GraphBuilder()
    x0, x1 = (builder.input(TensorType((1,), torch.float64), name=name) for name in ("x0", "x1"))
    nothing = builder.add(Relu(), builder.add(Sub(), x0, x0))
    graph = builder.graph([builder.add(Add(), builder.add(Relu(), x0), nothing, builder.add(Relu(), x1), name="y")])
    one, two = torch.ones(1, 1).double(), torch.full((1, 1), 2.0).double()
    bounds = run(graph, "dual", (Box(-one, one), Box(two, two))).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == pytest.approx((2.0, 3.0), abs=1e-12)

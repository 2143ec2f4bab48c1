"""Random projections: columns against dual networks, convergence with k, and that estimates decide nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import irverify as iv
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Input, Linear, Relu, Sigmoid
from irverify.ir.types import TensorType
from irverify.passes.dual_network import dual_network
from irverify.passes.projected import Columns, Own, Passing
from irverify.pipeline import estimates, margins, run
from irverify.regions import L1, L2, Box, Region
from tests.passes.test_dual import KINDS, operands_of, residual
from tests.passes.test_soundness import slack
from tests.random_graphs import boxes, graphs, points


def dense(seed: int = 0, batch: int = 3) -> tuple[Graph, torch.Tensor]:
    """Three layers of 12 inputs, and some centres."""
    generator = torch.Generator().manual_seed(seed)

    def layer(out: int, width: int) -> Linear:
        weight = torch.randn(out, width, generator=generator, dtype=torch.float64) * width**-0.5
        return Linear(weight, torch.randn(out, generator=generator, dtype=torch.float64) * 0.1)

    builder = GraphBuilder()
    x = builder.input(TensorType((12,), torch.float64))
    for width in (20, 20):
        x = builder.add(Relu(), builder.add(layer(width, builder.type(x).size), x))
    y = builder.add(layer(3, 20), x, name="y")
    return builder.graph([y]), torch.randn(batch, 12, generator=generator, dtype=torch.float64)


def gaps(graph: Graph, region: Region, pipeline: str, name: str = "y") -> torch.Tensor:
    found = run(graph, pipeline, region).estimates[name]
    return (found.upper - found.lower) / 2


@settings(max_examples=40)
@given(data=st.data())
def test_columns_are_the_dual_network_forward(data: st.DataObject) -> None:
    """The columns of an identity matrix at an input are the nu of all rows, up to the sign."""
    graph = data.draw(graphs(kinds=KINDS, inputs=1))
    operands = operands_of(graph, run(graph, "ibp", data.draw(boxes(graph, batch=1))))
    (source,) = graph.inputs
    size = source.type.size
    identity = torch.eye(size, dtype=torch.float64).reshape(1, size, *source.type.shape)
    passing, columns = Passing(graph, operands), {}
    for node in graph:
        if isinstance(node.op, Input):
            passing.start(node.name, Columns((node.name,), identity))
        else:
            columns[node.name] = passing.step(node)
    for name in set(graph.outputs) & set(columns):
        found = columns[name]
        assert found is not None
        network = dual_network(graph, name)
        count = graph[name].type.size
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *graph[name].type.shape)
        needed = {label: operands[label] for label in network.operands}
        nu = network.evaluate(unit, needed)[0][source.name].reshape(count, size)
        torch.testing.assert_close(found.tensor.reshape(size, count).T, -nu)


@pytest.mark.parametrize("ball", ["box", "l2"])
def test_estimates_converge(ball: str) -> None:
    """With the same columns up to the last layer, its estimated norms approach those that are computed."""
    graph, center = dense()
    region = L2(center, 0.5) if ball == "l2" else Box(center - 0.1, center + 0.1)
    errors = []
    for columns in (100, 10_000):
        exact = gaps(graph, region, f"dual-proj{{k={columns}}}")
        projected = gaps(graph, region, f"dual-proj{{k={columns},last=projected}}")
        errors.append(float((projected / exact - 1).abs().max()))
    assert errors[1] < 0.05
    assert errors[1] < errors[0] < 0.6


@pytest.mark.parametrize("ball", ["box", "l2"])
def test_many_columns_give_the_dual_bounds(ball: str) -> None:
    """Where every ReLU is unstable, and no interval is tighter than a dual bound."""
    graph, center = dense()
    region = L2(center, 0.5) if ball == "l2" else Box(center - 0.1, center + 0.1)
    state = run(graph, "dual", region)
    expected = state.bounds["y"]
    found = run(graph, "dual-proj{k=10000}", region).estimates["y"]
    wide = (expected.upper - expected.lower).max()
    assert float((found.lower - expected.lower).abs().max() / wide) < 0.05
    assert float((found.upper - expected.upper).abs().max() / wide) < 0.05


@settings(max_examples=25)
@given(data=st.data())
def test_geometric_ranges_hold(data: st.DataObject) -> None:
    """They may fail with probability delta, which is set to one in a billion."""
    graph = data.draw(graphs(kinds=KINDS))
    regions = data.draw(boxes(graph))
    state = run(graph, "dual-proj{k=8,estimator=geometric,delta=1e-9,last=projected}", regions)
    for inputs in points(graph, regions, count=3):
        values = graph.values(inputs)
        for name, found in state.estimates.items():
            allowed = 10 * slack(run(graph, "ibp", regions).bounds[name])
            assert bool((found.lower - allowed <= values[name]).all())
            assert bool((values[name] <= found.upper + allowed).all())


def test_a_tiny_network_by_hand() -> None:
    """y = relu(x), x in [-1, 3]: the lines are 3/4 x + 3/8 -+ 3/8. With one column the estimate of a norm is |C| times
    it, with C drawn from the seed: first one number for the input, then one for the activation."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), torch.float64))
    graph = builder.graph([builder.add(Linear(torch.ones(1, 1).double()), builder.add(Relu(), x, name="r"), name="y")])
    region = Box(-torch.ones(1, 1).double(), 3 * torch.ones(1, 1).double())
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.empty(1, dtype=torch.float64).cauchy_(generator=generator).abs().item() for _ in range(2))
    low, high = 1 - 2 * first, 1 + 2 * first  # the range of x, which is read by an activation, is estimated too
    assert low < 0 < high
    slope = high / (high - low)
    middle = radius = -slope * low / 2
    found = run(graph, "dual-proj{k=1,seed=7,last=projected}", region).estimates["y"]
    gap = slope * 2 * first + radius * second
    assert found.upper.item() == pytest.approx(slope + middle + gap)
    assert found.lower.item() == pytest.approx(slope + middle - gap)


def test_seeds_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = residual(batch=3)
    pipeline = "dual-proj{k=20,last=projected}"
    together = gaps(graph, region, pipeline)
    assert torch.equal(together, gaps(graph, region, pipeline))
    assert not torch.allclose(together, gaps(graph, region, "dual-proj{k=20,seed=1,last=projected}"))
    torch.testing.assert_close(together[1:2], gaps(graph, region.select(1), pipeline))
    monkeypatch.setattr("irverify.passes.projections.MEMORY", 1)
    torch.testing.assert_close(gaps(graph, region, pipeline), together)


def test_estimates_are_no_bounds() -> None:
    graph, center = dense()
    region = Box(center - 0.1, center + 0.1)
    state = run(graph, "dual-proj", region)
    assert set(state.bounds) == {"x"}
    assert state.estimates["y"].source == "dual-proj"
    with pytest.raises(UsageError, match="an estimate is not a bound"):
        margins(graph, region, [0, 1, 2], method="dual-proj")
    found = estimates(graph, region, [0, 1, 2], method="dual-proj{k=200,seed=3}")
    assert found.source == "dual-proj{k=200,seed=3}"
    assert found.lower.shape == (3, 3)


@pytest.mark.parametrize("options", ["k=0", "delta=0", "delta=1.0"])
def test_senseless_options(options: str) -> None:
    graph, center = dense()
    with pytest.raises(UsageError, match="k >= 1 and delta between 0 and 1"):
        run(graph, f"dual-proj{{{options}}}", Box(center, center))


def test_what_is_refused() -> None:
    graph, center = dense()
    with pytest.raises(UnsupportedError, match="boxes and l2 balls, got L1"):
        run(graph, "dual-proj", L1(center, 0.1))
    builder = GraphBuilder()
    curved = builder.graph([builder.add(Sigmoid(), builder.input(TensorType((1,))))])
    with pytest.raises(UnsupportedError, match="no linear dual layer"):
        run(curved, "dual-proj", Box(torch.zeros(1, 1), torch.ones(1, 1)))


@pytest.mark.parametrize("last", ["exact", "projected"])
def test_estimates_are_differentiable(last: str) -> None:
    """In the weights, by finite differences: columns do not change with them."""
    graph, center = dense(batch=1)
    region = Box(center - 0.1, center + 0.1)
    first = next(node.op for node in graph if isinstance(node.op, Linear))
    weight = first.weight
    assert isinstance(weight, torch.Tensor)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def lower() -> torch.Tensor:
        return run(graph, f"dual-proj{{k=9,last={last}}}", region).estimates["y"].lower.sum()

    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(lower(), weight)
    found, step = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * step)
            found.append(float(lower()))
            weight.sub_(direction, alpha=sign * step)
    assert float((gradient * direction).sum()) == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("shape", [(), (6,), (3, 2, 4)])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_bent_columns(shape: tuple[int, ...], last: bool) -> None:
    """Values and gradients written by hand are those of PyTorch, in either order in memory."""
    order = torch.channels_last if last and len(shape) == 3 else torch.contiguous_format

    def some(*extents: int) -> torch.Tensor:
        made = torch.randn(extents, dtype=torch.float64)
        return (made if len(extents) != 4 else made.contiguous(memory_format=order)).requires_grad_()

    columns = some(10, *shape).unflatten(0, (2, 5)).detach().requires_grad_()
    slope, radius, drawn = some(2, *shape), some(2, *shape), some(5, *shape).detach().unsqueeze(0)
    found = Columns(("a",), columns).bent(slope, Own("a", radius, drawn)).tensor
    wanted = columns * slope.unsqueeze(1) + radius.unsqueeze(1) * drawn
    weight = torch.randn_like(wanted)
    pairs = [torch.autograd.grad((value * weight).sum(), (columns, slope, radius)) for value in (found, wanted)]
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs)


class Flattened(nn.Module):
    """A convolution whose flattened values are read by linear layers alone, or by another operator as well."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(2, 3, 3, 2, 1), nn.Linear(12, 4), nn.Linear(12, 4)
        self.alone = alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv(x).relu().flatten(1)
        y = self.first(z).relu() + self.second(z)
        return y if self.alone else torch.cat([y.relu(), z], dim=1)


@pytest.mark.parametrize("alone", [True, False])
def test_flattened_columns_are_the_same_in_both_precisions(alone: bool) -> None:
    """In single precision they stand with the channels last, and linear layers read them so."""
    torch.manual_seed(0)
    module, x = Flattened(alone), torch.rand(3, 2, 4, 4)
    found = []
    for dtype in (torch.float32, torch.float64):
        module, x = module.to(dtype), x.to(dtype)
        graph = iv.compile(module, x[:1])
        estimates = run(graph, "dual-proj{k=7,last=projected}", Box(x - 0.3, x + 0.3)).estimates
        lower = torch.cat([estimates[name].lower.flatten(1) for name in sorted(estimates)], dim=1)
        gradients = torch.autograd.grad(lower.sum(), module.first.weight)
        found.append([lower.double(), gradients[0].double()])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)

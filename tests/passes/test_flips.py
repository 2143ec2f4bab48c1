"""Specifications of ReLU networks: slopes are turned over where the first way of a row says so."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irverify as iv
from irverify.errors import RegionError
from irverify.ir.graph import Graph, GraphBuilder, convert
from irverify.ir.ops import Add, Concat, Linear, Neg, Relu, Reshape, Sub
from irverify.ir.types import TensorType
from irverify.kernels import available
from irverify.kernels.flips import upward
from irverify.passes import crown, flips
from irverify.regions import Box
from tests.passes.at_once import drawn

SEEDS = st.integers(0, 2**16)
DTYPES = st.sampled_from((torch.float32, torch.float64))


def one_neuron() -> Graph:
    """`(relu(z) - 0.4 z + 0.2 z, 0)` with z = relu(x_1 + x_2) - 2."""
    builder = GraphBuilder()
    x = builder.add(Linear(torch.ones(1, 2).double()), builder.input(TensorType((2,), torch.float64)))
    z = builder.add(Linear(torch.ones(1, 1).double(), torch.tensor([-2.0]).double()), builder.add(Relu(), x))
    bent = builder.add(Linear(torch.tensor([[1.0], [0.0]]).double()), builder.add(Relu(), z))
    for factor in (-0.4, 0.2):  # apart, so that intervals are wide
        bent = builder.add(Add(), bent, builder.add(Linear(torch.tensor([[factor], [0.0]]).double()), z))
    return builder.graph([bent])


class Net(nn.Module):
    """Convolutions, one of one element, around which others lead, or dense layers."""

    def __init__(self, *, planes: bool) -> None:
        super().__init__()
        self.planes = planes
        self.first: nn.Module = nn.Conv2d(2, 4, 3, padding=1) if planes else nn.Linear(2 * 6 * 6, 20)
        self.second: nn.Module = nn.Conv2d(4, 6, 3, 2, padding=1) if planes else nn.Linear(20, 15)
        self.third: nn.Module = nn.Conv2d(6, 6, 3, padding=1) if planes else nn.Linear(15, 15)
        self.short: nn.Module = nn.Conv2d(4, 6, 1, 2) if planes else nn.Linear(20, 15)
        self.head = nn.LazyLinear(5)
        self(torch.zeros(1, 2, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x if self.planes else x.flatten(1)))
        x = torch.relu(self.third(torch.relu(self.second(x))) + self.short(x))
        found: Tensor = self.head(x.flatten(1))
        return found


def network(seed: int, dtype: torch.dtype, *, planes: bool) -> Graph:
    module = Net(planes=planes)
    drawn(module, seed)
    return convert(iv.compile(module.requires_grad_(False), torch.zeros(1, 2, 6, 6)), dtype)


def images(seed: int, batch: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(batch, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_other_slope_by_hand() -> None:
    # z is in [-1, 2], and crown's slope 1: relu(z) - 0.2 z >= 0.8 z >= -0.8, at x* with z = -1. There the coefficient 1
    # of the ReLU makes slope 0 worth 1: relu(z) - 0.2 z >= -0.2 z >= -0.4. (The least is 0.)
    box = Box(torch.full((1, 2), 0.5).double(), torch.full((1, 2), 2.0).double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "worthwhile", lambda graph: False)
        assert iv.margins(one_neuron(), box, 0, "crown")[0, 1].item() == pytest.approx(-0.8)
    assert iv.margins(one_neuron(), box, 0, "crown")[0, 1].item() == pytest.approx(-0.4)
    assert iv.margins(one_neuron(), box, 0, "alpha{steps=0}")[0, 1].item() == pytest.approx(-0.4)


def test_where_it_is_worth_while() -> None:
    def found(*layers: nn.Module) -> bool:
        module = nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.LazyLinear(2))
        module(torch.zeros(1, 1, 6, 6))
        return flips.worthwhile(iv.compile(module, torch.zeros(1, 1, 6, 6)))

    assert found(nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU())
    assert not found(nn.ReLU())  # there are no rows in between
    assert not found(nn.ReLU(), nn.Conv2d(2, 2, 2), nn.Tanh())
    assert not found(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU())


@settings(max_examples=60, deadline=None)
@given(SEEDS, DTYPES, st.booleans(), st.integers(1, 3), st.sampled_from(("Linf", "L2", "L1")), st.floats(0.01, 0.5))
def test_below_all_points_and_never_looser(
    seed: int, dtype: torch.dtype, planes: bool, batch: int, norm: str, eps: float
) -> None:
    graph, center = network(seed, dtype, planes=planes), images(seed, batch, dtype)
    region = getattr(iv, norm)(center, eps if norm == "Linf" else 4 * eps)
    labels = torch.arange(batch) % 5
    found = iv.margins(graph, region, labels, "crown")
    near = 1e-4 if dtype == torch.float32 else 1e-9
    for seed_ in range(20):
        outputs = graph.evaluate(region.sample(1, torch.Generator().manual_seed(seed_))[0])
        assert isinstance(outputs, Tensor)
        margins = outputs.gather(1, labels[:, None]) - outputs
        assert bool((margins >= found - near * (1 + found.abs())).all())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "worthwhile", lambda graph: False)
        plain = iv.margins(graph, region, labels, "crown")
    assert bool((found >= plain - near * (1 + plain.abs())).all())


@settings(max_examples=30, deadline=None)
@given(SEEDS, DTYPES, st.booleans(), st.integers(1, 4))
def test_compiled_and_not(seed: int, dtype: torch.dtype, planes: bool, batch: int) -> None:
    graph, region = network(seed, dtype, planes=planes), iv.Linf(images(seed, batch, dtype), 0.1, clip=(0, 1))
    labels = torch.arange(batch) % 5
    found = iv.margins(graph, region, labels, "crown")
    near = 2e-4 if dtype == torch.float32 else 1e-9
    for names in (("upward",), ("turned",), ("forward",), ("upward", "turned", "forward")):
        with pytest.MonkeyPatch.context() as patch:
            for name in names:
                patch.setattr(flips, name, lambda *given, **told: None)
            torch.testing.assert_close(found, iv.margins(graph, region, labels, "crown"), rtol=near, atol=near)


@pytest.mark.parametrize("planes", [True, False])
@pytest.mark.parametrize("limit", [1, 2**12, 2**14])
def test_parts_and_batches(limit: int, planes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same whichever go together, and an example's in any batch."""
    graph, region = network(3, torch.float64, planes=planes), iv.Linf(images(3, 5, torch.float64), 0.1)
    labels = torch.arange(5)
    whole = iv.margins(graph, region, labels, "crown")
    for example in range(5):
        alone = iv.margins(graph, region.select(example), labels[example : example + 1], "crown")
        torch.testing.assert_close(whole[example], alone[0], rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(crown, "CHUNK", limit)
    torch.testing.assert_close(whole, iv.margins(graph, region, labels, "crown"), rtol=1e-9, atol=1e-9)


def layer(seed: int, outputs: int, inputs: int) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    return Linear(weight, torch.randn(outputs, generator=generator, dtype=torch.float64))


def test_what_rows_do_not_reach() -> None:
    """Values known exactly end them: an input that is one point, and what cancels out."""
    builder, type_ = GraphBuilder(), TensorType((3,), torch.float64)
    x, y = builder.input(type_), builder.input(type_)
    whole = builder.add(Add(), builder.add(layer(0, 4, 3), x), builder.add(layer(1, 4, 3), y))
    for seed in (2, 3):
        whole = builder.add(layer(seed, 4, 4), builder.add(Relu(), whole))
    bent = builder.add(Relu(), builder.add(layer(4, 4, 4), builder.add(Relu(), builder.add(layer(5, 4, 3), y))))
    graph = builder.graph([builder.add(Add(), whole, builder.add(layer(6, 4, 4), builder.add(Sub(), bent, bent)))])
    point, ball = torch.rand(2, 3, dtype=torch.float64), iv.Linf(torch.rand(2, 3, dtype=torch.float64), 0.3)
    for first, second in ((Box(point, point), ball), (ball, Box(point, point))):
        found = iv.margins(graph, (first, second), [0, 1], "crown")
        for seed in range(20):
            inputs = [part.sample(1, torch.Generator().manual_seed(seed))[0] for part in (first, second)]
            outputs = graph.evaluate(*inputs)
            assert isinstance(outputs, Tensor)
            assert bool((outputs.gather(1, torch.tensor([[0], [1]])) - outputs >= found - 1e-9).all())
        # the same as with two tensors, whose equality nobody asks for
        apart = [Box(part.lower, part.upper.clone()) if isinstance(part, Box) else part for part in (first, second)]
        torch.testing.assert_close(found, iv.margins(graph, tuple(apart), [0, 1], "crown"), rtol=1e-9, atol=1e-9)


def test_no_worst_input_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Balls of which no float is known to be inside, and rows that are not finite, have bounds still."""
    graph, center = network(7, torch.float32, planes=False), images(7, 2, torch.float32)

    def fails(self: iv.L1, coefficients: Tensor) -> Tensor:
        raise RegionError("no point is known inside the region")

    monkeypatch.setattr(iv.L1, "minimizer", fails)
    found = iv.margins(graph, iv.L1(center, 0.5), 0, "crown")
    monkeypatch.setattr(flips, "worthwhile", lambda graph: False)
    assert bool((found >= iv.margins(graph, iv.L1(center, 0.5), 0, "crown") - 1e-4).all())


@pytest.mark.parametrize("seed", range(3))
def test_memory_that_others_read(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ReLU over a view of a value does not write over what others read of it."""
    builder = GraphBuilder()
    x = builder.add(layer(seed, 12, 6), builder.input(TensorType((6,), torch.float64)))
    bent = builder.add(Reshape((12,)), builder.add(Relu(), builder.add(Reshape((3, 4)), x)))
    y = builder.add(layer(seed + 1, 8, 12), builder.add(Sub(), bent, x))
    graph = builder.graph([builder.add(layer(seed + 2, 3, 8), builder.add(Relu(), y))])
    region = iv.Linf(torch.zeros(2, 6, dtype=torch.float64), 0.3)
    found = iv.margins(graph, region, 0, "crown")
    monkeypatch.setattr(flips, "upward", lambda *given, **told: None)
    torch.testing.assert_close(found, iv.margins(graph, region, 0, "crown"), rtol=1e-9, atol=1e-9)


def test_bounds_are_differentiable_still() -> None:
    lower = torch.full((1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    assert iv.margins(one_neuron(), Box(lower, lower + 1.5), 0, "crown").requires_grad

    def least(low: Tensor) -> Tensor:
        return iv.margins(one_neuron(), Box(low, low + 1.5), 0, "crown").sum()

    assert torch.func.grad(least)(lower.detach()).abs().sum() > 0


@pytest.mark.parametrize("value", [1e30, 1e38])
def test_overflow_proves_nothing(value: float) -> None:
    """Lines, or the value at the worst input, are not finite."""
    graph = network(5, torch.float32, planes=False)
    region = iv.Linf(images(5, 2, torch.float32) * value, value)
    try:
        found = iv.margins(graph, region, 0, "crown")
    except iv.IRVerifyError:
        return
    assert not bool((found[:, 1:] > 0).any())


def test_what_is_known_beside_what_is_not() -> None:
    """A value that no input changes, next to others of one example."""
    builder = GraphBuilder()
    x = builder.input(TensorType((4,), torch.float64))
    none = builder.add(Relu(), builder.add(layer(1, 2, 4), builder.add(Sub(), x, x)))
    both = builder.add(Relu(), builder.add(Concat(0), none, builder.add(layer(2, 3, 4), x)))
    graph = builder.graph([builder.add(layer(4, 3, 5), builder.add(Relu(), builder.add(layer(3, 5, 5), both)))])
    assert flips.worthwhile(iv.compile(graph))
    center = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    whole = iv.margins(graph, iv.Linf(center, 0.3), 0, "crown")
    for example in range(2):
        alone = iv.margins(graph, iv.Linf(center[example : example + 1], 0.3), 0, "crown")
        torch.testing.assert_close(alone[0], whole[example], rtol=1e-9, atol=1e-9)


def branches() -> Graph:
    """ReLUs of one value, of which others read more, sums of a value with itself, and ReLUs at the end."""
    builder = GraphBuilder()
    x = builder.add(layer(1, 12, 6), builder.input(TensorType((6,), torch.float64)))
    first, second = builder.add(Relu(), x), builder.add(Relu(), x)
    z = builder.add(Sub(), builder.add(Add(), first, second), x)
    third, fourth = builder.add(Relu(), z), builder.add(Relu(), builder.add(Add(), z, z))
    y = builder.add(layer(2, 12, 12), builder.add(Add(), third, fourth, first))
    last = builder.add(Add(), builder.add(Relu(), y), builder.add(Neg(), builder.add(Relu(), builder.add(Neg(), y))))
    return builder.graph([builder.add(Add(), last, third)])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("eps", [0.03, 0.3])
def test_values_that_others_read(batch: int, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    center = torch.linspace(-1, 1, 6 * batch, dtype=torch.float64).reshape(batch, 6)
    found = iv.margins(branches(), iv.Linf(center, eps), 0, "crown")
    monkeypatch.setattr(flips, "upward", lambda *given, **told: None)
    torch.testing.assert_close(found, iv.margins(branches(), iv.Linf(center, eps), 0, "crown"), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not available(), reason="kernels are not compiled here")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["branches", "planes", "flat"])
def test_gains_take_no_memory_that_is_read(kind: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are the same where they take none, and again."""
    taken = []

    def elsewhere(*given: Tensor, spent: bool) -> Tensor | None:
        taken.append(spent)
        return upward(*given)

    graph = branches() if kind == "branches" else network(11, torch.float64, planes=kind == "planes")
    (operand,) = graph.inputs
    size = batch * operand.type.size
    center = torch.linspace(0, 1, size, dtype=torch.float64).reshape(batch, *operand.type.shape)
    region, labels = iv.Linf(center, 0.1), torch.arange(batch)
    given = region.center.clone(), labels.clone()
    found = iv.margins(graph, region, labels, "crown")
    assert torch.equal(found, iv.margins(graph, region, labels, "crown"))
    assert torch.equal(region.center, given[0])
    assert torch.equal(labels, given[1])
    monkeypatch.setattr(flips, "upward", elsewhere)
    assert torch.equal(found, iv.margins(graph, region, labels, "crown"))
    assert any(taken)

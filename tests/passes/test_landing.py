"""Rows through the last dense layer to a box, a few at a time, against the same one step after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.ir.graph import Graph, convert
from irverify.passes import alpha, landing, swept
from irverify.passes.landing import _Least, landed
from irverify.regions import L2, Region
from tests.passes.test_straight import Normalised

METHOD = "alpha{steps=4,intermediate=4}"


class Around(nn.Module):
    """The input goes around a layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.relu(self.second(torch.relu(self.first(x)) + x)))
        return found


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(4)
    layers = nn.Linear(2 * 3 * 5, 20), activation(), nn.Linear(20, 15), activation(), nn.Linear(15, 4)
    return nn.Sequential(Normalised(), nn.Flatten(), *layers)


def compiled(module: nn.Module, dtype: torch.dtype = torch.float32) -> Graph:
    return convert(iv.compile(module.requires_grad_(False), torch.zeros(1, 2, 3, 5)), dtype)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether rows have landed, each time that they were asked to. All go one example after the other."""
    found: list[bool] = []

    def calling(*given: object) -> Tensor | None:
        bounds = landed(*given)  # type: ignore[arg-type]
        found.append(bounds is not None)
        return bounds

    monkeypatch.setattr(alpha, "NARROW", 0)
    monkeypatch.setattr(swept, "landed", calling)
    return found


def compared(graph: Graph, region: Region, near: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins as they are and as they would be one step after the other."""
    labels = torch.zeros(region.batch, dtype=torch.int64)
    found = iv.margins(graph, region, labels, METHOD)
    monkeypatch.setattr(swept, "landed", lambda *given: None)
    torch.testing.assert_close(found, iv.margins(graph, region, labels, METHOD), rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.LeakyReLU])
@pytest.mark.parametrize("few", [1, 7, landing.FEW])
def test_margins(
    few: int, activation: type[nn.Module], dtype: torch.dtype, count: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "FEW", few)
    monkeypatch.setattr(landing, "BYTES", 1)
    region = iv.Linf(torch.rand(3, 2, 3, 5, dtype=dtype), 0.1, clip=(0, 1))
    compared(compiled(network(activation), dtype), region, 1e-4 if dtype == torch.float32 else 1e-9, monkeypatch)
    assert True in count


def test_parameters_that_learn(count: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    graph = iv.compile(network(), torch.zeros(1, 2, 3, 5))
    compared(graph, iv.Linf(torch.rand(2, 2, 3, 5), 0.1), 1e-4, monkeypatch)
    assert True in count


def test_other_ways_to_the_input(count: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else has rows waiting over the input, or is no box."""
    around = iv.compile(Around().requires_grad_(False), torch.zeros(1, 6))
    with pytest.MonkeyPatch.context() as patched:
        compared(around, iv.Linf(torch.rand(2, 6), 0.2), 1e-4, patched)
    assert True not in count
    compared(compiled(network()), L2(torch.rand(2, 2, 3, 5), 0.2), 1e-4, monkeypatch)
    assert True not in count


def least(rows: Tensor, weight: Tensor, middle: Tensor, reach: Tensor) -> Tensor:
    found: Tensor = _Least.apply(rows, weight, middle, reach)  # type: ignore[no-untyped-call]
    return found


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(landing, "FEW", 2)
    monkeypatch.setattr(landing, "BYTES", 1)
    rows, weight, middle, reach = drawn(5, 3).requires_grad_(), drawn(3, 8), drawn(8), drawn(8).abs()
    assert torch.autograd.gradcheck(least, (rows, weight, middle, reach))
    assert least(rows[:0], weight, middle, reach).shape == (0,)
    assert least(drawn(2, 0), weight[:0], middle, reach).tolist() == [0, 0]
    expanded = drawn(3, 1).expand(3, 8)
    found = least(rows, expanded, middle, reach)
    torch.testing.assert_close(found, rows @ expanded @ middle - (rows @ expanded).abs() @ reach)


def test_by_hand_and_what_is_not_a_number() -> None:
    rows = torch.tensor([[1.0, -2], [math.nan, 0], [0, 1]])
    weight, middle = torch.tensor([[1.0, 2], [3, 1]]), torch.tensor([1.0, 1])
    found = least(rows, weight, middle, torch.tensor([0.5, 2]))
    assert found.isnan().tolist() == [False, True, False]
    assert found[::2].tolist() == [-5 - 2.5, 4 - 1.5 - 2]
    found = least(rows[:1], weight, middle, torch.tensor([math.inf, 1]))
    assert found.tolist() == [-math.inf]

"""Rows that go through dense layers to an input in one go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.ir.graph import Graph, convert
from irverify.kernels import available
from irverify.kernels import layers as compiled
from irverify.kernels.adjoint import CHIP
from irverify.passes import straight, sweep
from irverify.passes.straight import way
from irverify.passes.view import Looks

pytestmark = pytest.mark.skipif(not available() or not CHIP, reason="no kernels for this processor")


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.25) / 0.5


def network(activation: type[nn.Module], *, depth: int = 3) -> Graph:
    torch.manual_seed(3)
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(30, 30), activation())]
    module = nn.Sequential(
        Normalised(), nn.Flatten(), nn.Linear(2 * 5 * 7, 30), activation(), *hidden, nn.Linear(30, 4)
    )  # fmt: skip
    return iv.compile(module.requires_grad_(False), torch.zeros(1, 2, 5, 7))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers rows have passed in one go, at each call."""
    found: list[int] = []

    def calling(*given: object) -> Tensor | None:
        least = compiled.lower_bounds(*given)  # type: ignore[arg-type]
        assert least is not None
        found.append(len(given[1]))  # type: ignore[arg-type]
        return least

    monkeypatch.setattr(straight, "lower_bounds", calling)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["crown", "crown-zero", "fast-lin", "crown-ibp"])
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("batch", [1, 5])
def test_margins(
    batch: int, activation: type[nn.Module], method: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = convert(network(activation), dtype)
    region = iv.Linf(torch.rand(batch, 2, 5, 7, dtype=dtype), 0.03, clip=(0, 1))
    labels = torch.arange(batch) % 4
    calls = counted(monkeypatch)
    found = iv.margins(graph, region, labels, method)
    curved = activation in (nn.Sigmoid, nn.Tanh)
    inside = method != "crown-ibp"
    last = method != "crown" or activation is nn.LeakyReLU  # rows of others go their way more than once
    if curved or not inside:
        assert calls == ([1, 2, 3] if inside else []) + ([4] if last else [])
    else:  # somebody may look on the way
        assert calls[0] == 1
        assert (calls[-1] == 4) == last
        assert all(layers <= k for k, layers in enumerate(calls, 1))
    monkeypatch.setattr(sweep, "straight", lambda *given, **named: None)
    near = 2e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(found, iv.margins(graph, region, labels, method), rtol=near, atol=near)


@pytest.mark.parametrize(("pay", "passed"), [(True, [1, 1, 1, 4]), (False, [1, 2, 3, 4])])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_that_somebody_looks_at(
    batch: int, pay: bool, passed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go in one go from where nobody looks any more; at once where looks do not pay. Each example looks for
    itself, once rows are over a value before which there is more than one to look at."""
    graph = network(nn.ReLU)
    region = iv.Linf(torch.rand(batch, 2, 5, 7), 0.2, clip=(0, 1))
    monkeypatch.setattr(Looks, "pay", lambda *given: pay)
    monkeypatch.setattr(sweep, "LITTLE", 0)
    calls = counted(monkeypatch)
    found = iv.run(graph, "crown", region)
    assert set(calls) == set(passed)
    assert calls == passed or batch > 1
    monkeypatch.setattr(sweep, "straight", lambda *given, **named: None)
    wanted = iv.run(graph, "crown", region)
    for name, bounds in wanted.bounds.items():
        torch.testing.assert_close(found.bounds[name].lower, bounds.lower, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.bounds[name].upper, bounds.upper, rtol=1e-5, atol=1e-5)


def test_elements_that_pass_nothing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows over some elements alone, where most are inactive, and where all are."""
    for shift in (-0.3, -0.5, -100.0):
        torch.manual_seed(5)
        layers = [nn.Linear(20, 40), nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 3)]
        with torch.no_grad():
            for layer in layers[:2]:
                layer.bias.add_(shift)
        module = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        graph = iv.compile(module.requires_grad_(False), torch.zeros(1, 20))
        region = iv.Linf(torch.rand(2, 20), 0.05)
        found = iv.margins(graph, region, [0, 2], "crown")
        with monkeypatch.context() as patched:
            patched.setattr(sweep, "straight", lambda *given, **named: None)
            torch.testing.assert_close(found, iv.margins(graph, region, [0, 2], "crown"), rtol=1e-5, atol=1e-5)


def test_ways() -> None:
    graph = network(nn.Tanh, depth=1)
    found = way(graph, graph.nodes[-1].name)
    assert found is not None
    assert [type(graph[name].op).__name__ for _, name in found.layers] == ["Linear"] * 3
    assert [bent is None for bent, _ in found.layers] == [True, False, False]
    assert graph[found.end].type.shape == (70,)
    assert found.source == graph.inputs[0].name
    assert way(graph, found.source) is None
    assert way(graph, found.end) is None


def test_other_regions_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball has a minimum of its own; a point is known; what is recorded is left to PyTorch."""
    graph, x = network(nn.Sigmoid), torch.rand(2, 2, 5, 7)
    calls = counted(monkeypatch)
    iv.margins(graph, iv.L2(x, 0.1), [0, 1], "crown")
    assert calls == []
    iv.margins(graph, iv.Box(x, x), [0, 1], "crown")
    assert calls == []
    state = iv.run(graph, "crown", iv.Box(x, (x + 0.01).requires_grad_()))
    assert calls == []
    assert state.bounds[graph.nodes[-1].name].lower.requires_grad


def test_skip_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 30), nn.Linear(30, 30), nn.Linear(30, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.first(x).sigmoid()
            z: Tensor = self.last(self.second(y).sigmoid() + y)
            return z

    torch.manual_seed(1)
    graph = iv.compile(Skipping().requires_grad_(False), torch.zeros(1, 6))
    region = iv.Linf(torch.rand(3, 6), 0.05)
    calls = counted(monkeypatch)
    found = iv.margins(graph, region, [0, 1, 2], "crown-zero")
    assert calls == [1, 1]  # from `second`, and from where both parts of the sum have met
    monkeypatch.setattr(sweep, "straight", lambda *given, **named: None)
    torch.testing.assert_close(found, iv.margins(graph, region, [0, 1, 2], "crown-zero"), rtol=1e-5, atol=1e-5)

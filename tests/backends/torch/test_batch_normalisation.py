"""Batch normalisation in training mode: mean and variance of the clean batch, for the bounds as well."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.losses import crown_ibp, ibp
from irverify.errors import UsageError


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 2, 3, padding=1)
        self.again = nn.BatchNorm2d(2, momentum=None)
        self.last = nn.Linear(2 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(self.norm(self.first(x)).relu())
        result: Tensor = self.last((x + self.again(inner)).relu().flatten(1))
        return result


def residual() -> tuple[Residual, Tensor, Tensor]:
    torch.manual_seed(0)
    return Residual().double(), torch.rand(5, 2, 4, 4, dtype=torch.float64), torch.arange(5) % 4


def test_by_hand() -> None:
    """x = 1 and 3: mean 2, variance 1, so y = (x - 2) / sqrt(1 + 0) is -1 and 1; with eps 0.5 and weight -2, bias 1 it
    is 3 and -1, each within 1. Running: mean 0.1 * 2, variance 0.9 + 0.1 * 2 (unbiased)."""
    norm = nn.BatchNorm1d(1, eps=0.0).double()
    module = nn.Sequential(norm, nn.ReLU(), nn.Linear(1, 2)).double()
    last = torch.tensor([[1.0], [0.0]]).double()
    module.load_state_dict(
        {"0.weight": torch.tensor([-2.0]), "0.bias": torch.ones(1), "2.weight": last, "2.bias": torch.zeros(2)},
        strict=False,
    )
    bound = BoundGraph(module, torch.zeros(1, 1).double())
    found = bound(torch.tensor([[1.0], [3.0]]).double(), 0.5, torch.tensor([0, 0]))
    (lower, upper) = next(iter(found.bounds.values()))
    assert lower.flatten().tolist() == [2, -2]
    assert upper.flatten().tolist() == [4, 0]
    assert found.margins.tolist() == [[0, 2], [0, 0]]
    assert float(norm.running_mean) == pytest.approx(0.2)  # type: ignore[arg-type]
    assert float(norm.running_var) == pytest.approx(1.1)  # type: ignore[arg-type]
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_clean_values_and_running_statistics_are_pytorchs(method: str) -> None:
    module, x, labels = residual()
    twin = copy.deepcopy(module)
    bound = BoundGraph(module, x[:1], method)
    assert module.training
    for _ in range(2):
        found, expected = bound(x, 0.01, labels), twin(x)
        assert found.logits is not None
        assert torch.allclose(found.logits, expected)
    for (name, own), other in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(own, other), name


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_are_those_of_the_network_with_these_statistics(method: str) -> None:
    module, x, labels = residual()
    found = BoundGraph(module, x[:1], method)(x, 0.02, labels)
    fixed = copy.deepcopy(module).eval()
    with torch.no_grad():
        z = module.first(x)
        norms = ((fixed.norm, z), (fixed.again, module.second(module.norm(z).relu())))
        for norm, clean in norms:
            norm.running_mean = clean.mean((0, 2, 3))
            norm.running_var = clean.var((0, 2, 3), correction=0)
    expected = iv.margins(iv.compile(fixed, x[:1]), iv.Linf(x, 0.02), labels, method)
    assert torch.allclose(found.margins, expected)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_statistics_are_part_of_the_gradient(method: str) -> None:
    module, x, labels = residual()
    bound = BoundGraph(module, x[:1], method)
    parameters = [module.first.weight, module.norm.weight, module.second.weight]
    assert torch.autograd.gradcheck(lambda *_: bound(x, 0.02, labels).margins, parameters, fast_mode=True)


def test_each_layer_in_its_own_mode() -> None:
    module, x, labels = residual()
    bound = BoundGraph(module, x[:1])
    module.norm.eval()
    bound(x, 0.02, labels)
    assert int(module.norm.num_batches_tracked or 0) == 0
    assert int(module.again.num_batches_tracked or 0) == 1
    bound.eval()
    before = bound(x, 0.02, labels).margins
    assert torch.allclose(before, iv.margins(iv.compile(module, x[:1]), iv.Linf(x, 0.02), labels))


def test_one_value_has_no_variance() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(UsageError, match="more than one value"):
        BoundGraph(module, torch.rand(1, 2))(torch.rand(1, 2), 0.1)


def test_a_batch_counts_once() -> None:
    """Two losses on one batch, the second without statistics; a graph has its running statistics in either mode."""
    module, x, labels = residual()
    twin = copy.deepcopy(module)
    intervals, rows = BoundGraph(module, x[:1]), BoundGraph(module, x[:1], "crown-ibp")
    (ibp(intervals, x, labels, 0.01) + crown_ibp(rows, x, labels, 0.01, track=False)).backward()
    twin(x)
    for (name, own), other in zip(module.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(own, other), name
    still = BoundGraph(iv.compile(copy.deepcopy(module).eval(), x[:1])).train()
    before = still(x, 0.01, labels).margins
    assert torch.equal(still(x, 0.01, labels).margins, before)
    assert torch.allclose(before, intervals.eval()(x, 0.01, labels).margins)

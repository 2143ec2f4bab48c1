"""Bounds, verdicts and graphs are the same where the caller has autocast on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.autocast import without_autocast
from irverify.backends.torch import losses
from irverify.certify import ByAnalysis, Question, Settings
from irverify.data import DataSet

HALF = torch.bfloat16


def network() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A convolutional network in single precision, inputs and labels."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 12),
        nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip
    return module.requires_grad_(False), torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0])


def test_off_inside_and_on_again() -> None:
    a = torch.rand(2, 2)
    with torch.autocast("cpu", HALF):
        with without_autocast():
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == HALF


@pytest.mark.parametrize("method", ["ibp", "improved-interval", "crown-ibp", "crown", "forward", "dual", "alpha"])
def test_bounds(method: str) -> None:
    module, x, labels = network()
    graph = iv.compile(module, x[:1])
    expected = iv.margins(graph, iv.Linf(x, 0.02), labels, method=method)
    with torch.autocast("cpu", HALF):
        read = iv.compile(module, x[:1])
        found = iv.margins(graph, iv.Linf(x, 0.02), labels, method=method)
    assert torch.equal(found, expected)
    assert [node.type for node in read] == [node.type for node in graph]


def test_certification() -> None:
    """What the model says of the images, and their bounds."""
    module, x, labels = network()
    images = DataSet("five", x.numpy(), labels.numpy())
    question = Question(iv.compile(module, x[:1]), images, 0.02, clip=None)
    certifier = ByAnalysis(question, "crown", Settings(dtype=torch.float32))
    expected = [outcome for found in certifier.outcomes(range(5)) for outcome in found]
    with torch.autocast("cpu", HALF):
        found = [outcome for found in certifier.outcomes(range(5)) for outcome in found]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.status, ours.predicted, ours.bound) == (theirs.status, theirs.predicted, theirs.bound)


@pytest.mark.parametrize("loss", [
    lambda graph, x, y: losses.dual(graph, x, y, 0.02),
    lambda graph, x, y: losses.dual(graph, x, y, 0.02, hidden="interval"),
    lambda graph, x, y: sum(losses.tight_terms(graph, x, y, 0.02), torch.zeros(())),
])  # fmt: skip
def test_dual_losses(loss: Callable[[iv.Graph, Tensor, Tensor], Tensor]) -> None:
    module, x, y = network()
    graph = iv.compile(module.requires_grad_(True), x[:1])
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", HALF, enabled=enabled):
            value = loss(graph, x, y)
        found.append([value.detach(), *torch.autograd.grad(value, list(module.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)

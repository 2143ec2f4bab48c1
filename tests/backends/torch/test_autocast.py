"""Under `torch.autocast` what gives bounds computes in the network's own types; training may be in narrower ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import BoundGraph, losses, regularizers
from irverify.ir.params import Derived, value
from irverify.passes.gap import relaxed_minimizers

X, LABELS = torch.tensor([[0.3, -0.5, 0.8, 0.1], [0.9, 0.2, -0.4, 0.6]]), torch.tensor([0, 2])
METHODS = ("interval", "improved-interval", "ibp", "crown", "crown-ibp", "dual", "alpha", "forward")


def fused() -> nn.Module:
    """Two linear layers in a row, which `fuse-linear` makes one of."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def narrow() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("method", ["ibp", "crown", "dual"])
def test_margins(method: str) -> None:
    with narrow():
        graph = iv.compile(fused(), X[:1])
        found = iv.margins(graph, iv.Linf(X, 0.1), LABELS, method)
    expected = iv.margins(iv.compile(fused(), X[:1]), iv.Linf(X, 0.1), LABELS, method)
    assert torch.equal(found, expected)
    assert torch.equal(iv.margins(graph, iv.Linf(X, 0.1), LABELS, method), expected)


def test_what_else_rests_on_bounds() -> None:
    graph, region = iv.compile(fused(), X[:1]), iv.Linf(X, 0.1)
    expected = iv.coefficients(graph, region, LABELS, "crown"), relaxed_minimizers(graph, region, iv.robust(0))[0]
    with narrow():
        found = iv.coefficients(graph, region, LABELS, "crown"), relaxed_minimizers(graph, region, iv.robust(0))[0]
        verdict = iv.verify(graph, iv.Linf(X[:1], 1e-3), iv.robust(0), timeout=20)
    assert torch.equal(found[0].constant, expected[0].constant) and torch.equal(found[1], expected[1])
    assert verdict.verdict == iv.verify(graph, iv.Linf(X[:1], 1e-3), iv.robust(0), timeout=20).verdict


def test_derived_parameters_keep_their_type() -> None:
    """A third of 3 would be 0.33 in bfloat16, and be kept."""
    with torch.no_grad():
        product = Derived(torch.matmul, torch.full((1, 1), 1 / 3), torch.ones(1, 1))
        with narrow():
            assert value(product).dtype == torch.float32
        assert value(product).item() == torch.tensor(1 / 3).item()


@pytest.mark.parametrize("method", METHODS)
def test_bound_graphs(method: str) -> None:
    """`ibp` and `crown-ibp` in bfloat16, all others as without."""
    module = fused()
    expected = BoundGraph(module, X[:1], method)(X, 0.1, LABELS).margins
    with narrow():
        found = BoundGraph(module, X[:1], method)(X, 0.1, LABELS).margins
    if method in ("ibp", "crown-ibp"):
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    else:
        assert torch.equal(found, expected)
    if method != "alpha":
        found.float().sum().backward()
        assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in module.parameters())


LOSSES: dict[str, Callable[[iv.Graph], Tensor]] = {
    "ibp": lambda graph: losses.ibp(graph, X, LABELS, 0.1),
    "crown-ibp": lambda graph: losses.crown_ibp(graph, X, LABELS, 0.1),
    "dual": lambda graph: losses.dual(graph, X, LABELS, 0.1),
    "singleprop": lambda graph: losses.singleprop(graph, X, LABELS, 0.1),
    "tightness": lambda graph: torch.stack(tuple(regularizers.tightness(graph, X, LABELS, 0.1))).sum(),
    "rs": lambda graph: regularizers.rs_loss(graph, X, 0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    module = fused()
    graph = iv.compile(module, X[:1])
    expected = LOSSES[name](graph)
    with narrow():
        found = LOSSES[name](graph)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().backward()
    assert any(part.grad is not None and bool(part.grad.isfinite().all()) for part in module.parameters())

"""Gradients of every loss and regulariser against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from irverify.backends.torch import losses, regularizers
from irverify.backends.torch.losses import Ascent, Projections
from irverify.ir.graph import Graph
from irverify.passes import dual_rows
from tests.backends.torch.small_networks import assert_gradient, batch, mlp, residual

EPS = 0.2
Function = Callable[[Graph, Tensor, Tensor], Tensor]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


FUNCTIONS: dict[str, Function] = {
    "clean": losses.clean,
    "singleprop-zero": lambda g, x, y: losses.singleprop(g, x, y, EPS, weight=0.7),
    "singleprop-fastlin": lambda g, x, y: losses.singleprop(g, x, y, EPS, lines="fast-lin", clip=(0, 1)),
    "singleprop-l2": lambda g, x, y: losses.singleprop(g, x, y, EPS, norm="2"),
    "adversarial": lambda g, x, y: losses.adversarial(g, x, y, EPS, ascent=Ascent(3, 0.5, seeded())),
    "trades": lambda g, x, y: losses.trades(g, x, y, EPS, ascent=Ascent(3, 0.5, seeded()), clip=(0, 1)),
    "dual": lambda g, x, y: losses.dual(g, x, y, EPS),
    "dual-clipped": lambda g, x, y: losses.dual(g, x, y, EPS, clip=(0, 1)),
    "dual-interval": lambda g, x, y: losses.dual(g, x, y, EPS, hidden="interval"),
    "dual-l2": lambda g, x, y: losses.dual(g, x, y, EPS, norm="2"),
    "dual-projected": lambda g, x, y: losses.dual(g, x, y, EPS, projections=Projections(7, seeded())),
    "dual-projected-even": lambda g, x, y: losses.dual(g, x, y, EPS, projections=Projections(8, seeded())),
    "dual-projected-l2": lambda g, x, y: losses.dual(g, x, y, EPS, projections=Projections(7, seeded()), norm="2"),
    "tight": lambda g, x, y: sum(losses.tight_terms(g, x, y, EPS), torch.zeros(())),
    "tight-projected": lambda g, x, y: sum(
        losses.tight_terms(g, x, y, EPS, projections=Projections(7, seeded())), torch.zeros(())
    ),
    "d": lambda g, x, y: regularizers.tightness(g, x, y, EPS).d,
    "r": lambda g, x, y: regularizers.tightness(g, x, y, EPS, hidden="interval").r,
    "rs": lambda g, x, y: regularizers.rs_loss(g, x, EPS),
    "rs-naive": lambda g, x, y: regularizers.rs_loss(g, x, EPS, bounds="interval"),
    "l1": lambda g, x, y: regularizers.l1(g),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_a_perceptron(name: str) -> None:
    module, graph = mlp(4, 6, 5, 3)
    x, y = batch(graph)
    assert_gradient(module, lambda: FUNCTIONS[name](graph, x, y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_a_residual_network(name: str) -> None:
    module, graph = residual()
    x, y = batch(graph)
    assert_gradient(module, lambda: FUNCTIONS[name](graph, x, y))


def test_of_rows_that_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the memory that rows may keep, the loss and its gradient are the same."""
    module, graph = residual()
    x, y = batch(graph)
    kept = losses.dual(graph, x, y, EPS)
    monkeypatch.setattr(dual_rows, "KEPT", 0)
    again = losses.dual(graph, x, y, EPS)
    torch.testing.assert_close(again, kept)
    parameters = list(module.parameters())
    torch.testing.assert_close(torch.autograd.grad(again, parameters), torch.autograd.grad(kept, parameters))

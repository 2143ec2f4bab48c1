"""What losses say of labels and radii that do not fit, and that they keep no graph."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import losses
from irverify.backends.torch.losses import Ascent
from irverify.backends.torch.losses.robust import _of_graph
from irverify.errors import PropertyError, RegionError
from irverify.ir.graph import Graph

Function = Callable[[Graph, Tensor, Tensor, "float | Tensor"], Tensor]


def _ascent() -> Ascent:
    return Ascent(2, 0.5, torch.Generator().manual_seed(1))


FUNCTIONS: dict[str, Function] = {
    "clean": lambda g, x, y, eps: losses.clean(g, x, y),
    "ibp": losses.ibp,
    "crown-ibp": losses.crown_ibp,
    "dual": losses.dual,
    "tight": lambda g, x, y, eps: torch.stack(tuple(losses.tight_terms(g, x, y, eps))).sum(),
    "singleprop": losses.singleprop,
    "singleprop-terms": lambda g, x, y, eps: torch.stack(tuple(losses.singleprop_terms(g, x, y, eps))).sum(),
    "adversarial": lambda g, x, y, eps: losses.adversarial(g, x, y, eps, ascent=_ascent()),
    "trades": lambda g, x, y, eps: losses.trades(g, x, y, eps, ascent=_ascent()),
}
X = torch.tensor([[0.1, 0.9], [0.4, 0.2]])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels(name: str) -> None:
    graph = iv.compile(network(), X[:1])
    wrong = ([0, 3], [0, -1], [0, -100], [0], [0, 1, 2], [0.0, 1.0], [[0], [1]])
    for given in wrong:
        with pytest.raises(PropertyError, match="label"):
            FUNCTIONS[name](graph, X, torch.tensor(given), 0.1)
    labels = torch.tensor([0, 2])
    narrow = FUNCTIONS[name](graph, X, labels.to(torch.int32), 0.1)
    torch.testing.assert_close(narrow, FUNCTIONS[name](graph, X, labels, 0.1))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "clean"])
def test_radius_of_each_example_has_all_axes(name: str) -> None:
    graph = iv.compile(network(), X[:1])
    labels = torch.tensor([0, 2])
    with pytest.raises(RegionError, match="eps"):
        FUNCTIONS[name](graph, X, labels, torch.tensor([0.1, 0.2]))  # one for each example, or for each coordinate?
    assert FUNCTIONS[name](graph, X, labels, torch.tensor([[0.1], [0.2]])).isfinite()
    for eps in (-0.1, float("nan"), float("inf")):
        with pytest.raises(RegionError, match="eps"):
            FUNCTIONS[name](graph, X, labels, eps)


@pytest.mark.parametrize("name", ["ibp", "dual", "singleprop", "singleprop-fastlin"])
def test_gradient_at_radius_0_is_that_of_the_network(name: str) -> None:
    module = network().double()
    x, labels = X.double(), torch.tensor([0, 2])
    graph = iv.compile(module, x[:1])
    parameters = list(module.parameters())
    wanted = torch.autograd.grad(nn.functional.cross_entropy(module(x), labels), parameters)
    if name == "singleprop-fastlin":
        value = losses.singleprop(graph, x, labels, 0.0, lines="fast-lin")
    else:
        value = FUNCTIONS[name](graph, x, labels, 0.0)
    for found, known in zip(torch.autograd.grad(value, parameters), wanted, strict=True):
        torch.testing.assert_close(found, known)


@pytest.mark.parametrize("name", ["ibp", "crown-ibp"])
def test_a_loss_that_bounds_a_graph_prepares_it_once(name: str) -> None:
    graph = iv.compile(network(), X[:1])
    assert _of_graph(graph, name) is _of_graph(graph, name)
    assert _of_graph(iv.compile(network(), X[:1]), name) is not _of_graph(graph, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_graph_and_weights_are_freed(name: str) -> None:
    module = network()
    graph = iv.compile(module, X[:1])
    FUNCTIONS[name](graph, X, torch.tensor([0, 2]), 0.1).backward()
    alive = [weakref.ref(graph), weakref.ref(next(module.parameters()))]
    del graph, module
    gc.collect()
    assert [held() for held in alive] == [None, None]

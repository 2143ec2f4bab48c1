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
from irverify.backends.torch.regularizers import rs_loss
from irverify.errors import PropertyError, RegionError, ShapeError, UsageError
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


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))


class TwoTypes(nn.Module):
    """The network with its first layer in the type of the inputs and its last one in double precision."""

    def __init__(self, source: nn.Sequential) -> None:
        super().__init__()
        self.first, self.last = source[0], source[2].double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.first(x)).double())
        return logits


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_network_of_two_element_types(name: str) -> None:
    plain, y = network(), torch.tensor([0, 2])
    expected = FUNCTIONS[name](iv.compile(plain.double(), X[:1].double()), X.double(), y, 0.1)
    found = FUNCTIONS[name](iv.compile(TwoTypes(network()), X[:1]), X, y, 0.1)
    drawn = name in ("adversarial", "trades")  # from starts that another type makes others
    assert found.item() == pytest.approx(expected.item(), rel=0.1 if drawn else 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels(name: str) -> None:
    graph = iv.compile(network(), X[:1])
    wrong = ([0, 3], [0, -1], [0, -100], [0], [0, 1, 2], [0.0, 1.0], [[0], [1]])
    for given in wrong:
        with pytest.raises(PropertyError, match="label"):
            FUNCTIONS[name](graph, X, torch.tensor(given), 0.1)
    for other in (None, "ab", [None, 1], torch.tensor([False, True]), torch.tensor([0j, 1j])):
        with pytest.raises(PropertyError, match="label"):
            FUNCTIONS[name](graph, X, other, 0.1)  # type: ignore[arg-type]
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
    for eps in (-0.1, float("nan"), float("inf"), None, "0.1", [0.1], 1j, torch.tensor(-0.1), torch.tensor(1j)):
        with pytest.raises(RegionError, match="eps"):
            FUNCTIONS[name](graph, X, labels, eps)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs(name: str) -> None:
    graph, labels = iv.compile(network(), X[:1]), torch.tensor([0, 2])
    for given in (None, X.tolist(), X.numpy(), X.long(), X[None], X[0], X[:, :1], X.sum(), X[:0]):
        with pytest.raises((UsageError, ShapeError), match=r"expected (inputs|a tensor|at least one example)"):
            FUNCTIONS[name](graph, given, labels, 0.1)  # type: ignore[arg-type]
    wanted = FUNCTIONS[name](graph, X, labels, 0.1)
    torch.testing.assert_close(FUNCTIONS[name](graph, X.double(), labels, 0.1), wanted)


BALLS: dict[str, Callable[..., object]] = {
    "ibp": losses.ibp,
    "dual": losses.dual,
    "singleprop": losses.singleprop,
    "adversarial": losses.adversarial,
    "rs": lambda graph, x, y, eps, **options: rs_loss(graph, x, eps, **options),
}


@pytest.mark.parametrize("name", BALLS)
def test_valid_range_and_norm(name: str) -> None:
    graph, labels = iv.compile(network(), X[:1]), torch.tensor([0, 2])
    crossed, far, shapes = (1, 0), (5, 6), (torch.zeros(3), 1)
    for clip in (1, "ab", (0,), (0, 1, 2), (None, 1), crossed, far, shapes, (float("nan"), 1)):
        with pytest.raises(RegionError):
            BALLS[name](graph, X, labels, 0.1, clip=clip)
    for norm in () if name == "ibp" else ("max", 2, None):
        with pytest.raises(UsageError, match="expected the norm 'inf', '2' or '1'"):
            BALLS[name](graph, X, labels, 0.1, norm=norm)


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(name: str, wrong: float) -> None:
    graph, x = iv.compile(network(), X[:1]), X.clone()
    x[1, 0] = wrong
    with pytest.raises(RegionError, match=r"finite|not a number"):
        BALLS[name](graph, x, torch.tensor([0, 2]), 0.1)


@pytest.mark.parametrize("name", ["ibp", "crown-ibp", "singleprop"])
def test_a_radius_beyond_all_numbers(name: str) -> None:
    graph, labels = iv.compile(network(), X[:1]), torch.tensor([0, 2])
    with pytest.raises(RegionError, match="not finite"):
        FUNCTIONS[name](graph, X, labels, 1e39)
    assert FUNCTIONS[name](graph, X, labels, torch.tensor(1e5)).isfinite()


def test_options() -> None:
    graph, labels = iv.compile(network(), X[:1]), torch.tensor([0, 2])
    nan = float("nan")
    given = graph, X, labels, 0.1
    wrong: list[Callable[[], object]] = [
        lambda: losses.ibp(*given, kappa=nan),
        lambda: losses.ibp(*given, kappa=None),  # type: ignore[arg-type]
        lambda: losses.crown_ibp(*given, beta=-0.1),
        lambda: losses.singleprop(*given, weight=nan),
        lambda: losses.singleprop(*given, lines="fastlin"),  # type: ignore[arg-type]
        lambda: losses.trades(*given, beta=-1.0),
        lambda: losses.dual(*given, hidden="ibp"),  # type: ignore[arg-type]
        lambda: losses.Projections(0),
        lambda: losses.Ascent(1.5),  # type: ignore[arg-type]
        lambda: losses.Ascent(step=nan),
        lambda: losses.Ascent(start=[0.1]),  # type: ignore[arg-type]
        lambda: losses.Term(None, graph),  # type: ignore[arg-type]
        lambda: losses.Sum({"a": (1.0, None)}),  # type: ignore[dict-item]
        lambda: losses.Sum({"a": (nan, losses.Term(losses.clean, graph))})(X, labels, 0.1),
        lambda: losses.clean(None, X, labels),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(UsageError, match="expected"):
            call()
    with pytest.raises(PropertyError, match="expected margins"):
        losses.robust_cross_entropy(labels, labels)
    with pytest.raises(RegionError, match="points of shape"):
        losses.adversarial(*given, ascent=Ascent(1, start=X[:1]))


def test_an_attack_stays_in_the_region_wherever_it_starts() -> None:
    graph, labels = iv.compile(network(), X[:1]), torch.tensor([0, 2])
    for norm in ("inf", "2", "1"):
        far = losses.adversarial(graph, X, labels, 1e-6, ascent=Ascent(0, start=X + 50), norm=norm)
        torch.testing.assert_close(far, losses.clean(graph, X, labels), rtol=1e-3, atol=1e-5)


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


def test_graphs_and_weights_are_freed() -> None:
    alive = {}
    for name, loss in FUNCTIONS.items():
        module = network()
        graph = iv.compile(module, X[:1])
        loss(graph, X, torch.tensor([0, 2]), 0.1).backward()
        alive[name] = weakref.ref(graph), weakref.ref(next(module.parameters()))
    del graph, module
    gc.collect()
    assert [name for name, held in alive.items() if any(one() is not None for one in held)] == []

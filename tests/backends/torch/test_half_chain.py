"""SingleProp through a chain as one function: the numbers and the gradients of the walk over the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import losses
from irverify.backends.torch.half_chain import HalfChain, half_chain
from irverify.backends.torch.half_program import half_program
from irverify.backends.torch.losses.singleprop import Lines
from irverify.backends.torch.models import simplified
from irverify.ir.graph import Graph
from irverify.passes.lines import Choice
from irverify.passes.singleprop import halves
from irverify.train.networks import Normalise, Residual

EPS = 0.05
CHOICES: tuple[Choice, ...] = ("zero", "same")


def convolutional(*before: nn.Module) -> nn.Sequential:
    """Of every kind of link: with and without bias, several groups and dilation, two ReLUs in a row, one at the end."""
    return nn.Sequential(
        *before, nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 2, 1, (1, 0), (1, 2), 2, bias=False), nn.ReLU(),
        nn.ReLU(), nn.Flatten(), nn.Linear(24, 7), nn.Linear(7, 5, bias=False), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(),
    )  # fmt: skip


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3))


def normalised() -> nn.Sequential:
    """A batch normalisation after each layer, which the graph has in the weights, and one scale in front."""
    return nn.Sequential(
        Normalise((0.4, 0.6), (0.5, 2.0), 3), nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
    ).eval()  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "convolutional": (convolutional, (2, 6, 6)),
    "relu first": (lambda: convolutional(nn.ReLU()), (2, 6, 6)),
    "sequence": (sequence, (2, 6)),
    "normalised": (normalised, (2, 6, 6)),
}


def case(name: str, dtype: torch.dtype) -> tuple[nn.Sequential, Tensor, Graph, iv.Linf]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = make().to(dtype)
    x = torch.rand(4, *shape, dtype=dtype)
    return module, x, simplified(iv.compile(module, x[:1])), iv.Linf(x, EPS, clip=(0, 1))


def chain_of(graph: Graph, choice: Choice) -> HalfChain:
    chain = half_chain(graph, choice)
    assert chain is not None
    return chain


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_is_the_walk(name: str, dtype: torch.dtype, choice: Choice) -> None:
    module, _, graph, region = case(name, dtype)
    parameters = list(module.parameters())
    found = chain_of(graph, choice)(*region.box())
    walked = halves(graph, (region,), {}, choice)[graph.outputs[0]]
    assert found is not None
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found[:2], walked[:2], rtol=tolerance, atol=tolerance)
    first, second = torch.randn(2, 4, 3, dtype=dtype)
    for weights in ((first, second), (second, torch.zeros_like(second))):
        sums = [(half.nominal * weights[0] + half.gap * weights[1]).sum() for half in (found, walked)]
        slopes = [torch.autograd.grad(total, parameters, retain_graph=True) for total in sums]
        torch.testing.assert_close(*slopes, rtol=tolerance, atol=tolerance)


def test_one_of_the_two_results() -> None:
    """There is no gradient in the other one."""
    module, _, graph, region = case("convolutional", torch.float64)
    for place in range(2):
        found, walked = chain_of(graph, "zero")(*region.box()), halves(graph, (region,), {}, "zero")[graph.outputs[0]]
        assert found is not None
        slopes = [
            torch.autograd.grad(half[:2][place].sum(), list(module.parameters()), allow_unused=True)
            for half in (found, walked)
        ]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other)


def test_frozen_parameters() -> None:
    """They get no gradient, and the others the same."""
    module, x, graph, _ = case("convolutional", torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    expected = [*torch.autograd.grad(losses.singleprop(graph, x, y, EPS), list(module.parameters()))]
    for frozen in (module[0].parameters(), [module[2].weight], [module[6].bias], module.parameters()):
        for parameter in frozen:
            parameter.requires_grad_(False)
        loss = losses.singleprop(graph, x, y, EPS)
        assert loss.requires_grad == any(parameter.requires_grad for parameter in module.parameters())
        if loss.requires_grad:
            loss.backward()
        for parameter, slope in zip(module.parameters(), expected, strict=True):
            assert (parameter.grad is not None) == parameter.requires_grad
            torch.testing.assert_close(parameter.grad, slope if parameter.requires_grad else None)
            parameter.grad = None


@pytest.mark.parametrize("lines", ["zero", "fast-lin"])
def test_loss(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers as by the program of operations, and a second backward pass gives them again."""
    module, x, graph, _ = case("convolutional", torch.float32)
    parameters, y = list(module.parameters()), torch.tensor([0, 1, 2, 0])
    loss = losses.singleprop(graph, x, y, EPS, weight=0.7, lines=lines, clip=(0, 1))
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, parameters)))
    monkeypatch.setattr(HalfChain, "__call__", lambda *_: None)
    other = losses.singleprop(graph, x, y, EPS, weight=0.7, lines=lines, clip=(0, 1))
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(first, torch.autograd.grad(other, parameters))


def test_what_is_no_chain() -> None:
    shape = (1, 2, 4, 4)
    conv = nn.Conv2d(2, 2, 3, 1, 1)
    even = nn.Conv2d(2, 2, 2, 1, "same")  # more padding after than before
    for module in (
        nn.Sequential(Residual(conv, nn.Conv2d(2, 2, 1)), nn.ReLU(), nn.Flatten()),
        nn.Sequential(even, nn.ReLU(), nn.Flatten()),
        nn.Sequential(conv, nn.Tanh(), nn.Flatten()),
        nn.Sequential(conv, nn.Flatten()),
        nn.Sequential(conv, nn.ReLU(), nn.Flatten()),
        nn.Sequential(conv, nn.Flatten(), nn.ReLU(), nn.Linear(32, 2)),
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        nn.Sequential(conv, nn.ReLU(), Normalise((0.5, 0.5), (2.0, 3.0), 3), nn.AvgPool2d(2), nn.Flatten()),
    ):
        graph = simplified(iv.compile(module, torch.rand(shape)))
        assert half_chain(graph, "zero") is None
        assert half_program(graph, "zero") is not None


def test_where_operations_are_wanted() -> None:
    """Without gradients, for those in the input, and under autocast."""
    _, x, graph, region = case("sequence", torch.float32)
    chain, (lower, upper) = chain_of(graph, "zero"), region.box()
    with torch.no_grad():
        assert chain(lower, upper) is None
    assert chain(lower.clone().requires_grad_(), upper) is None
    y = torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        assert chain(lower, upper) is None
        assert losses.singleprop(graph, x, y, EPS).isfinite()
    images = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses.singleprop(graph, images, y, EPS), images)
    assert bool(slope.any())


def test_leaves_its_input_alone() -> None:
    _, _, graph, region = case("relu first", torch.float32)
    lower, upper = region.box()
    before = lower.clone(), upper.clone()
    found = chain_of(graph, "zero")(lower, upper)
    assert found is not None
    found.gap.sum().backward()
    assert torch.equal(lower, before[0]) and torch.equal(upper, before[1])

"""Improved interval arithmetic on chains, for training: eq. 9 with its matrices, gradients, small chunks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from irverify.backends.torch import composed, regularizers
from irverify.backends.torch.composed import layers, pre_activations
from irverify.backends.torch.models import simplified
from irverify.frontends import compile
from irverify.ir.graph import Graph
from irverify.ir.ops import Relu
from irverify.pipeline import run
from irverify.regions import Box
from tests.backends.torch.small_networks import assert_gradient, mlp, residual

NETWORKS = {
    "dense": (6,),
    "convolutions": (2, 12, 12),
    "oblong": (1, 10, 9),
    "dilated and grouped": (2, 6, 6),
}


def network(name: str, seed: int) -> tuple[nn.Sequential, Graph, Tensor, Tensor]:
    """Many ReLUs of each kind: the network, its graph, and both ends of boxes of two sizes."""
    torch.manual_seed(seed)
    module = nn.Sequential(*_layers(name)).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.3, 0.8)
            else:
                parameter.mul_(1.5)
    shape = NETWORKS[name]
    x, eps = torch.rand(2, *shape).double(), torch.tensor([0.02, 0.1]).double()
    eps = eps.reshape(2, *(1,) * len(shape))
    return module, simplified(compile(module, x[:1])), (x - eps).clamp(min=0), (x + eps).clamp(max=1)


def _layers(name: str) -> Iterator[nn.Module]:
    if name == "dense":
        affine: tuple[nn.Module, ...] = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 9), nn.Linear(9, 3)
    elif name == "convolutions":
        affine = (nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 2, 3, 1, 1), nn.Conv2d(2, 3, 2, 2), nn.Flatten(),
                  nn.Linear(27, 5), nn.Linear(5, 3))  # fmt: skip
    elif name == "oblong":
        affine = nn.Conv2d(1, 3, (4, 3), (2, 1), (1, 0)), nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(48, 3)
    else:
        affine = (nn.Conv2d(2, 4, 3, 1, 1, groups=2), nn.Conv2d(4, 4, 3, 1, 2, dilation=2), nn.Conv2d(4, 2, 3),
                  nn.Flatten(), nn.Linear(32, 3))  # fmt: skip
    for layer in affine:
        yield layer
        if not isinstance(layer, nn.Flatten):
            yield nn.ReLU()


def matrices(module: nn.Sequential, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """`W_k` `[out, in]` and `b_k` before each ReLU."""
    parts: list[nn.Module] = []
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    for part in module:
        if not isinstance(part, nn.ReLU):
            parts.append(part)
            continue
        affine = nn.Sequential(*parts)
        columns = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape[1:])
        with torch.no_grad():
            zero_out = affine(zero)
            yield (affine(columns) - zero_out).flatten(1).T, zero_out.flatten()
        zero, parts = torch.zeros_like(zero_out), []


def interval(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Both ends, stacked (paper 1, eq. 7 and 8, without the bias)."""
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    return torch.stack([plus @ low + minus @ high, plus @ high + minus @ low])


def recurrence(net: list[tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> list[Tensor]:
    """Eq. 9 for each layer of one example, elements that intervals settle left to these."""
    ends, found = [(low, high)], list[Tensor]()
    for k, (weight, bias) in enumerate(net):
        naive = interval(weight, *ends[k]) + bias
        total = torch.zeros_like(naive)
        for below in range(k, -1, -1):
            active = found[below - 1][0] >= 0 if below else torch.zeros(weight.shape[1], dtype=torch.bool)
            total = total + bias + interval(torch.where(active, 0.0, weight), *ends[below])
            taken = torch.where(active, weight, 0.0)
            if below:
                weight, bias = taken @ net[below - 1][0], taken @ net[below - 1][1]
        found.append(torch.where((naive[0] < 0) & (naive[1] > 0), total, naive))
        ends.append((found[-1][0].clamp(min=0), found[-1][1].clamp(min=0)))
    return found


@pytest.mark.parametrize("chunk", [composed.CHUNK, 50])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_recurrence_of_the_paper(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composed, "CHUNK", chunk)
    composes = False
    for seed in range(2):
        module, graph, lower, upper = network(name, seed)
        chain = layers(graph)
        assert chain is not None
        found = pre_activations(chain, lower, upper)
        net = list(matrices(module, NETWORKS[name]))
        intervals = run(graph, "ibp", Box(lower, upper))
        reads = [node.inputs[0] for node in graph if isinstance(node.op, Relu)]
        for example in range(2):
            expected = recurrence(net, lower[example].flatten(), upper[example].flatten())
            for bounds, ends in zip(found, expected, strict=True):
                torch.testing.assert_close(bounds.lower[example].flatten(), ends[0])
                torch.testing.assert_close(bounds.upper[example].flatten(), ends[1])
        for bounds, read in zip(found, reads, strict=True):
            composes |= bool((bounds.upper < intervals.bounds[read].upper - 1e-3).any())
    assert composes


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several chunks; at eps 0 too."""
    monkeypatch.setattr(composed, "CHUNK", 2000)
    module, graph, lower, upper = network(name, 0)
    x, eps = (lower + upper) / 2, (upper - lower) / 2
    assert_gradient(module, lambda: regularizers.rs_loss(graph, x, eps))
    assert_gradient(module, lambda: regularizers.rs_loss(graph, x, 0.0))


def test_what_is_no_chain_is_left_to_the_pass() -> None:
    assert layers(simplified(residual()[1])) is None
    assert layers(simplified(mlp(4, 6, 3)[1])) is not None

"""Small float64 networks, and directional derivatives by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from irverify.frontends import compile
from irverify.ir.graph import Graph


class Residual(nn.Module):
    """Two convolutions, the second beside a skip connection, with a batch normalisation in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Linear(2 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.norm(self.first(x)))
        z = torch.relu(self.second(z) + z)
        result: Tensor = self.last(z.flatten(1))
        return result


@cache
def mlp(*widths: int, seed: int = 0) -> tuple[nn.Module, Graph]:
    """Linear layers with ReLUs between them, and the graph."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    module = nn.Sequential(*layers[:-1]).double().eval()
    return module, compile(module, torch.zeros(1, widths[0], dtype=torch.float64))


@cache
def residual(seed: int = 0) -> tuple[nn.Module, Graph]:
    torch.manual_seed(seed)
    module = Residual().double().eval()
    with torch.no_grad():
        module.norm.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
        module.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return module, compile(module, torch.zeros(1, 1, 3, 3, dtype=torch.float64))


def batch(graph: Graph, size: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random inputs and labels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *graph.inputs[0].type.shape, dtype=torch.float64, generator=generator)
    return x, torch.arange(size) % 3


def assert_gradient(module: nn.Module, loss: Callable[[], Tensor], step: float = 1e-6) -> None:
    """The gradient of the loss in all parameters along random directions, against central differences."""
    parameters = list(module.parameters())
    module.zero_grad()
    loss().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        along = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
        values = []
        for side in (1.0, -1.0):
            with torch.no_grad():
                for parameter, direction in zip(parameters, along, strict=True):
                    parameter.add_(side * step * direction)
                values.append(float(loss()))
                for parameter, direction in zip(parameters, along, strict=True):
                    parameter.sub_(side * step * direction)
        expected = (values[0] - values[1]) / (2 * step)
        found = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True))
        assert abs(expected) > 1e-7, "the loss does not depend on the parameters here"
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)

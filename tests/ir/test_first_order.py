"""Second derivatives of functions that have first ones only are refused, not wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import BoundGraph, losses
from irverify.errors import UsageError
from irverify.ir.first_order import first_order


class Square(torch.autograd.Function):
    """x^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = 2 * gradient * x
        return result


def test_first_derivatives() -> None:
    """Of x^4 at 3: 4 x^3 = 108, with no graph behind it."""
    x = torch.tensor(3.0, requires_grad=True)
    (slope,) = torch.autograd.grad(Square.apply(x) ** 2, x)  # type: ignore[no-untyped-call]
    assert float(slope) == 108
    assert not slope.requires_grad


def test_second_derivatives() -> None:
    """Of x^4 at 3: 12 x^2 = 108, of which PyTorch's guard lets 8 x^2 pass."""
    x = torch.tensor(3.0, requires_grad=True)
    with pytest.raises(UsageError, match="create_graph=True"):
        torch.autograd.grad(Square.apply(x) ** 2, x, create_graph=True)  # type: ignore[no-untyped-call]


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    return network.double(), torch.rand(2, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 2])


@pytest.mark.parametrize("loss", ["crown_ibp", "singleprop", "dual"])
def test_losses(loss: str) -> None:
    module, x, y = case()
    total = getattr(losses, loss)(iv.compile(module, x[:1]), x, y, 0.1)
    with pytest.raises(UsageError, match="first derivatives"):
        torch.autograd.grad(total, list(module.parameters()), create_graph=True)


def test_bound_graph() -> None:
    module, x, y = case()
    total = BoundGraph(module, x[:1], "crown-ibp")(x, 0.1, y).margins.sum()
    with pytest.raises(UsageError, match="first derivatives"):
        torch.autograd.grad(total, list(module.parameters()), create_graph=True)


def test_ibp_has_second_derivatives() -> None:
    """Those of finite differences."""
    module, x, y = case()
    graph, parameters = iv.compile(module, x[:1]), list(module.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def slopes(create: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(losses.ibp(graph, x, y, 0.1), parameters, create_graph=create)

    along = torch.stack([(g * d).sum() for g, d in zip(slopes(True), direction, strict=True)]).sum()
    found = torch.autograd.grad(along, parameters)
    sides = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=step)
        sides.append(slopes(False))
    for own, above, below in zip(found, *sides, strict=True):
        torch.testing.assert_close(own, (above - below) / 2e-6, rtol=1e-4, atol=1e-6)

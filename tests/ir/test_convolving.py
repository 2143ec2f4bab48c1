"""One image with little to do goes another way to the same numbers, and the same derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.ir.ops import Conv, convolving


def layer() -> tuple[Conv, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=generator) for shape in ((6, 2, 4, 5), (6,), (1, 2, 9, 11)))
    return Conv(weight, bias, (2, 3), ((1, 1), (2, 2)), (1, 1)), x


def test_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    op, x = layer()
    found = op.evaluate(x)
    expected = op.evaluate(torch.cat([x, x]))[:1]
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(convolving, "LITTLE", 0)
    torch.testing.assert_close(found, op.evaluate(x))


def test_derivatives() -> None:
    op, x = layer()
    forward = torch.func.jvp(op.evaluate, (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(forward, op.apply(torch.ones_like(x)))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(op.evaluate(x).sum(), x)
    assert gradient.shape == x.shape
    both = torch.func.vmap(op.evaluate)(torch.stack([x, 2 * x]).detach())
    torch.testing.assert_close(both[0], op.evaluate(x).detach())

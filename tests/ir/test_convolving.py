"""One image with little to do goes another way to the same numbers, and the same derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.ir.ops import AveragePool, Conv, convolving


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


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("last", [True, False])
def test_one_channel_with_the_strides_of_channels_last(batch: int, step: int, last: bool) -> None:
    """Where the result has one column, oneDNN would give another."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(batch, 1, 28, 4, generator=generator).as_strided((batch, 1, 28, 4), (112, 1, 4, 1))
    weight = torch.randn(4, 1, 3, 4, generator=generator)
    weight = weight.as_strided((4, 1, 3, 4), (12, 1, 4, 1)) if last else weight
    found = convolving.convolved(x, weight, None, (1, step), (0, 0), (1, 1), 1)
    wanted = torch.nn.functional.conv2d(x.double().reshape(batch, 1, 28, 4), weight.double(), None, (1, step))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_sums_of_one_channel_with_the_strides_of_channels_last() -> None:
    x = torch.randn(3, 1, 28, 4).as_strided((3, 1, 28, 4), (112, 1, 4, 1))
    op = AveragePool((3, 4), (1, 2), ((0, 0), (0, 0)), ((0, 0), (0, 0)), (1, 1))
    torch.testing.assert_close(op.evaluate(x), op.evaluate(x.double()).float())

"""Convolutions whose windows are one element and move by more: of the elements that they meet alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import irverify as iv
from irverify.backends.torch import losses
from irverify.ir.ops import Conv, ConvTranspose
from irverify.ir.ops.moves import Moves, apart, every, skips
from irverify.ir.types import TensorType

BACKWARD = torch.ops.aten.convolution_backward.default


class Recorded(TorchDispatchMode):
    """Which gradients of convolutions torch was asked for: extents of the kernel and stride."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is BACKWARD:
            self.seen.append((tuple(args[2].shape[2:]), tuple(args[4])))
        return func(*args, **(kwargs or {}))


def test_every_and_apart() -> None:
    x = torch.arange(10.0).reshape(2, 5)
    assert every(x, (1,)) is x
    assert every(x, (3,)).tolist() == [[0, 3], [5, 8]]
    assert apart(torch.tensor([[1.0, 2.0]]), (3,)).tolist() == [[1, 0, 0, 2]]
    assert every(apart(x, (2, 3)), (2, 3)).equal(x)


def test_moves() -> None:
    assert skips((1, 1), (1, 2)) and not skips((1, 2), (2, 2)) and not skips((1, 1), (1, 1))
    assert Moves.of((1, 1), (2, 3), ((1, 1), (0, 0)), (2, 2)) == Moves((1, 1), (0, 0), (1, 1), ((1, 1), (0, 0)), (2, 3))
    assert Moves.of((3,), (2,), ((1, 1),), (2,)) == Moves((2,), (1,), (2,), (), (1,))
    assert Moves.of((3,), (2,), ((0, 1),), (1,)) == Moves((2,), (0,), (1,), ((0, 1),), (1,))


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 1), (1, 1)), ((1, 0), (-1, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(groups: int, padding: tuple[tuple[int, int], ...]) -> None:
    """Each result is a product with the element that the window meets."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(6, 4 // groups, 1, 1, dtype=torch.float64, requires_grad=True)
    op = Conv(weight, None, (2, 3), padding, (2, 1), groups)
    padded = nn.functional.pad(x, [*padding[1], *padding[0]])[:, :, ::2, ::3].unflatten(1, (groups, -1))
    shares = weight.reshape(groups, 6 // groups, 4 // groups)
    expected = torch.einsum("bgihw,goi->bgohw", padded, shares).flatten(1, 2)
    found = op.evaluate(x)
    torch.testing.assert_close(found, expected)
    g = torch.randn_like(found)
    (slope,) = torch.autograd.grad((found * g).sum(), weight)
    torch.testing.assert_close(slope, *torch.autograd.grad((expected * g).sum(), weight))
    (back,) = op.adjoint(g, (TensorType((4, 5, 6), torch.float64),))
    torch.testing.assert_close((back * x).sum(), (found * g).sum())
    (other,) = torch.autograd.grad((back * x).sum(), weight)
    torch.testing.assert_close(slope, other)


@pytest.mark.parametrize("loss", ["ibp", "crown_ibp", "singleprop", "dual"])
def test_gradients(loss: str) -> None:
    """Those of double precision. Torch, which would write beyond its memory, is asked for none of the other kind."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 6, 1, 2, 1), nn.ReLU(),
        nn.Conv2d(6, 5, 1, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(75, 3),
    )  # fmt: skip
    x, y = torch.rand(4, 2, 8, 8), torch.tensor([0, 1, 2, 0])
    found: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        module = network.to(dtype)
        graph = iv.compile(module, x[:1].to(dtype))
        with Recorded() as recorded:
            total = getattr(losses, loss)(graph, x.to(dtype), y, 0.02)
            found.append(list(torch.autograd.grad(total, list(module.parameters()))))
        assert recorded.seen
        assert not any(skips(*case) for case in recorded.seen)
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_transposed_gradients() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 6, 1, 1, requires_grad=True)
    x = torch.rand(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    op = ConvTranspose(weight, None, (2, 2), ((0, 0), (0, 0)), (1, 0))
    expected = torch.nn.functional.conv_transpose2d(x.double(), weight.double(), None, 2, 0, (1, 0))
    g = torch.randn(2, 6, 6, 5)
    with Recorded() as recorded:
        found = op.evaluate(x)
        (slope,) = torch.autograd.grad((found * g).sum(), weight, retain_graph=True)
        (back,) = op.adjoint(g, (TensorType((4, 3, 3), torch.float32),))
        (other,) = torch.autograd.grad((back * x).sum(), weight)
    torch.testing.assert_close(found.double(), expected)
    torch.testing.assert_close(slope, other)
    torch.testing.assert_close(slope, *torch.autograd.grad((expected * g).sum(), weight))
    assert not any(skips(*case) for case in recorded.seen)

"""Rows over a ReLU and the layer before it: their formula, their gradients, and work in blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.backends.torch import blocks
from irverify.backends.torch.adjoints import Convolution, Layer, Product
from irverify.backends.torch.bending import BendStep, Lines, lines, minimum
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.layout import columns
from irverify.ir.ops import Conv
from tests.backends.torch.test_bound_graph import batch, convolutional


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


WEIGHT = random(4, 1, 3, 2)
CASES: dict[str, tuple[Layer | None, tuple[int, ...], tuple[int, ...], Tensor | None]] = {
    "no layer": (None, (2, 3, 2), (2, 3, 2), None),
    "product": (Product((4,)), (5,), (4,), random(5, 4)),
    "product of planes": (Product((2, 2, 3)), (5,), (2, 2, 3), random(5, 12)),
    "one axis": (Convolution(Conv(random(2, 3, 2), None, (1,), ((1, 0),), (1,)), (3, 4)), (2, 4), (3, 4),
                 random(2, 3, 2)),
    "groups, strides, uneven padding": (
        Convolution(Conv(WEIGHT, None, (2, 1), ((1, 2), (0, 0)), (1, 2), 2), (2, 5, 4)), (4, 3, 2), (2, 5, 4), WEIGHT
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_formula_and_gradients(name: str) -> None:
    """passed = max(a, 0) slope + min(a, 0) high, passed W and min(a, 0) . top + passed . b, for 2 examples, 3 rows."""
    layer, result, operand, weight = CASES[name]
    rows, middle = random(6, *result, seed=1), random(2, *result, seed=2)
    bias = None if layer is None else random(result[0], seed=3)
    radius = torch.full_like(middle, 0.5)

    def bent(rows: Tensor, middle: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ordered = weight if weight is None or not isinstance(layer, Product) else columns(weight, layer.operand)
        found: tuple[Tensor, Tensor] = BendStep(layer)(rows, lines(middle - radius, middle + radius, bias), ordered)
        return found

    lower, upper = (middle - radius).unsqueeze(1), (middle + radius).unsqueeze(1)
    unstable = (lower < 0) & (upper > 0)
    high = torch.where(unstable, upper / (upper - lower), (lower >= 0).double())
    top = torch.where(unstable, -lower * high, torch.zeros_like(lower))
    slope = ((lower >= 0) | (unstable & (upper > -lower))).double()
    a = rows.unflatten(0, (2, 3))
    passed = (a.clamp(min=0) * slope + a.clamp(max=0) * high).flatten(0, 1)
    constants = (a.clamp(max=0) * top).flatten(2).sum(2).flatten()
    if bias is not None:
        constants = constants + (passed.flatten(2).sum(2) if passed.ndim > 2 else passed) @ bias
    if isinstance(layer, Convolution):
        x = torch.zeros(6, *operand, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(layer.op.replace(weight=weight).apply(x), x, passed)
    else:
        expected = passed if weight is None else (passed @ weight).reshape(6, *operand)
    found, found_constants = bent(rows, middle, weight, bias)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_constants, constants)
    given = [part for part in (rows, middle, weight, bias) if part is not None]
    assert torch.autograd.gradcheck(lambda *_: bent(rows, middle, weight, bias), given, fast_mode=True)


def test_stable_and_no_numbers() -> None:
    """Active, inactive, a point at 0, l = -1 and u = 3; a bound that is not a number makes lines that are none."""
    lower = torch.tensor([[1.0, -2.0, 0.0, -1.0, float("nan")]]).double()
    upper = torch.tensor([[2.0, -1.0, 0.0, 3.0, 1.0]]).double()
    slope, more, base, top = Lines.apply(lower, upper, None)  # type: ignore[no-untyped-call]
    assert base is None
    assert slope[0, :4].tolist() == [1, 0, 0, 1]
    assert more[0, :4].tolist() == [0, 0, 0, -0.25]
    assert top[0, :4].tolist() == [0, 0, 0, 0.75]
    assert torch.isnan(more[0, 4])
    assert torch.isnan(top[0, 4])


def test_minimum() -> None:
    """(1, -2) over centre (3, 4) and radius (0.5, 1): 3 - 8 - 0.5 - 2."""
    center, radius = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[0.5, 1.0]]).double()
    assert minimum(torch.tensor([[1.0, -2.0]]).double(), center, radius).tolist() == [-7.5]
    given = (random(4, 2, 3, 2), random(2, 2, 3, 2, seed=1), random(2, 2, 3, 2, seed=2).detach().abs().requires_grad_())
    assert torch.autograd.gradcheck(minimum, given, fast_mode=True)


def test_blocks_say_what_the_whole_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (x, labels) = convolutional(), batch(5)
    bound = BoundGraph(module, x[:1], "crown-ibp")
    whole = bound(x, 0.05, labels).margins
    expected = torch.autograd.grad(whole.sum(), list(module.parameters()))
    monkeypatch.setattr(blocks, "BLOCK", 1)
    monkeypatch.setattr(blocks, "LEAST", 2)
    found = bound(x, 0.05, labels).margins
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), list(module.parameters())), expected)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_autocast(method: str) -> None:
    """In bfloat16, with 8 bits: about the margins of float32, and gradients for parameters in float32."""
    module, (x, labels) = convolutional().float(), batch(5)
    x = x.float()
    bound = BoundGraph(module, x[:1], method)
    expected = bound(x, 0.02, labels).margins
    with torch.autocast("cpu", torch.bfloat16):
        found = bound(x, 0.02, labels).margins
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert all(part.grad is not None and bool(torch.isfinite(part.grad).all()) for part in module.parameters())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_compiled_ahead_of_time(method: str) -> None:
    """Forward and backward traced, with a backend that needs no compiler of C++."""
    module, (x, labels) = convolutional(), batch()
    bound = BoundGraph(module, x[:1], method)
    margins = bound(x, 0.05, labels).margins
    expected = torch.autograd.grad(margins.sum(), list(module.parameters()))
    found = torch.compile(bound, backend="aot_eager")(x, 0.05, labels).margins
    torch.testing.assert_close(found, margins)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), list(module.parameters())), expected)

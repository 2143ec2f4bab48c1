"""Interval bound propagation: the worked example of centre and radius, and that it takes two products a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irverify.ir.ops import Linear
from irverify.ir.text import parse_graph
from irverify.passes.ibp import IBP
from irverify.passes.interval import INTERVAL
from irverify.pipeline import run
from irverify.regions import L1, L2, Linf

NETWORK = """
graph "net" {
  %x: f64[2] = input()
  %a = linear(%x) {weight=tensor([[1, -1], [2, 1]]), bias=tensor([0, 1])}
  %r = relu(%a)
  %y = linear(%r) {weight=tensor([[1, -2]]), bias=tensor([0.5])}
  return %y
}
"""


@pytest.mark.parametrize("ball", [Linf, L2, L1])
def test_by_hand(ball: type[Linf]) -> None:
    """x = (1, 2), eps = 0.5; a: mu = (-1, 5), r = (1, 1.5); relu: [0, 0], [3.5, 6.5]; y: mu = -9.5, r = 3.

    The box hull of the other balls is the same."""
    region = ball(torch.tensor([[1.0, 2.0]]).double(), 0.5)
    state = run(parse_graph(NETWORK), "ibp", region)
    expected = {
        "x": ([0.5, 1.5], [1.5, 2.5]),
        "a": ([-2, 3.5], [0, 6.5]),
        "r": ([0, 3.5], [0, 6.5]),
        "y": ([-12.5], [-6.5]),
    }
    assert set(state.bounds) == set(expected)
    for name, (lower, upper) in expected.items():
        assert state.bounds[name].lower.tolist() == [lower]
        assert state.bounds[name].upper.tolist() == [upper]
    assert {entry.source for name, entry in state.bounds.items() if name != "x"} == {"ibp"}
    assert state.bounds["x"].source == "region"


@pytest.mark.parametrize(("analysis", "products"), [("interval", 4), ("ibp", 2)])
def test_products_a_layer(analysis: str, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        count[0] += 1
        result = x @ weight.T
        return result if bias is None else result + bias

    monkeypatch.setattr("irverify.passes.ibp.dense", lambda *given: None)
    monkeypatch.setattr("irverify.ir.ops.linear.functional.linear", counted)
    run(parse_graph(NETWORK), analysis, Linf(torch.zeros(1, 2).double(), 0.5))
    assert count[0] == 2 * products


def test_ibp_differs_from_interval_in_affine_maps_only() -> None:
    assert IBP.find(Linear) is not INTERVAL.find(Linear)
    assert {cls.__name__ for cls in IBP._rules} == {
        "Linear", "ConstMatMul", "Conv", "ConvTranspose", "LinearOp", "Spec"
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("expanded", [False, True])
def test_specification_of_one_example(dtype: torch.dtype, *, expanded: bool) -> None:
    """The rows of one example are bounded at once, as those of two are one product after the other; with gradients as
    without."""
    graph = parse_graph(NETWORK.replace("f64", {torch.float32: "f32", torch.float64: "f64"}[dtype]))
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, 3, 1, generator=generator, dtype=dtype)
    offset = torch.randn(2, 3, generator=generator, dtype=dtype)
    if expanded:
        matrix, offset = matrix[:, :1].expand(2, 3, 1), offset[:, :1].expand(2, 3)
    center = torch.randn(2, 2, generator=generator, dtype=dtype)
    both = run(graph, "fuse-linear,ibp", Linf(center, 0.5), spec=(matrix, offset)).bounds["spec"]
    for example in (slice(0, 1), slice(1, 2)):
        rows = matrix[example], offset[example]
        alone = run(graph, "fuse-linear,ibp", Linf(center[example], 0.5), spec=rows).bounds["spec"]
        torch.testing.assert_close(alone.lower, both.lower[example])
        torch.testing.assert_close(alone.upper, both.upper[example])
        followed = rows[0].detach().requires_grad_(), rows[1]
        lower = run(graph, "fuse-linear,ibp", Linf(center[example], 0.5), spec=followed).bounds["spec"].lower
        assert lower.requires_grad
        torch.testing.assert_close(lower.detach(), alone.lower)

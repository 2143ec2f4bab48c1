"""Products over flattened channels: the columns of a weight are in the order of the channels of each value it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch.bound_graph import BoundGraph
from irverify.backends.torch.half_program import half_program
from irverify.passes.singleprop import halves


class Shared(nn.Module):
    """One product reads the flattened channels of two convolutions, `[4, 3, 3]` and `[9, 2, 2]`, and a hidden layer of
    as many elements; each flattened value has two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(2, 9, 4, 2)
        self.product, self.other, self.hidden = nn.Linear(36, 5), nn.Linear(36, 5), nn.Linear(72, 36)
        self.last = nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        few, many = self.few(x).relu().flatten(1), self.many(x).relu().flatten(1)
        plain = self.product(self.hidden(x.flatten(1)).relu())
        first, second = self.product(few).relu() + self.other(few).relu(), self.product(many).relu() - self.other(many)
        logits: Tensor = self.last(torch.cat([first, second, plain], dim=1))
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_over_several_shapes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Shared().to(dtype)
    x, labels = torch.rand(4, 2, 6, 6, dtype=dtype), torch.tensor([0, 1, 2, 0])
    graph, parameters = iv.compile(module, x[:1]), list(module.parameters())
    region, scales = iv.Linf(x, 0.05, clip=(0, 1)), torch.randn(4, 3, dtype=dtype)
    pairs = []
    for method in ("ibp", "crown-ibp"):
        bounded = BoundGraph(module, x[:1], method)(x, 0.05, labels, (0, 1)).margins
        pairs.append((bounded, iv.margins(graph, region, labels, method=method).to(dtype)))
    program = half_program(graph, "zero")
    assert program is not None
    walked = halves(graph, (region,), {}, "zero")[graph.outputs[0]]
    pairs += zip(program(*region.box())[0][:2], walked[:2], strict=True)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        sums = [(side * scales).sum() for side in (found, expected)]
        slopes = [torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True) for total in sums]
        for one, other in zip(*slopes, strict=True):
            assert (one is None) == (other is None)
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)

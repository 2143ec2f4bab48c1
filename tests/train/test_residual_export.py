"""A residual network with batch normalisation: trained with bounds, written as ONNX, bounded from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import irverify as iv
from irverify.backends.torch import BoundGraph, losses
from irverify.train.export import export


class Residual(nn.Module):
    """One block with a skip connection, as a ResNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
        self.again = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 4, 3, 1, 1)
        self.last = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = (x + self.outer(self.again(self.inner(x)).relu())).relu()
        result: Tensor = self.last(x.flatten(1))
        return result


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_of_the_file_are_those_of_the_module(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    y = torch.arange(30) % 3
    x = (0.2 * torch.rand(30, 1, 6, 6) + 0.3 * y.reshape(-1, 1, 1, 1)).clamp(max=1)
    module = Residual()
    bound = BoundGraph(module, x[:1], method)
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    found: list[Tensor] = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = losses.ibp if method == "ibp" else losses.crown_ibp
        found.append(loss(bound, x, y, 0.02, kappa=0.3, clip=(0, 1)))
        found[-1].backward()
        optimiser.step()
    assert float(found[-1].detach()) < 0.5 * float(found[0].detach())
    graph = export(tmp_path, module, x[:1], "", {})
    assert not module.training
    region = iv.Linf(x, 0.02, clip=(0, 1))
    of_file = iv.margins(graph, region, y, method)
    torch.testing.assert_close(of_file, bound(x, 0.02, y, (0, 1)).margins, rtol=1e-3, atol=1e-3)
    read = iv.compile(tmp_path / "model.onnx")
    torch.testing.assert_close(iv.margins(read, region, y, method), of_file)

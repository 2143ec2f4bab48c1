"""Everything works without compiled code, and says the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import irverify as iv
from irverify.backends.torch import BoundGraph, losses
from irverify.data import DIGITS_NETWORK, digits
from irverify.ir.graph import convert
from irverify.kernels import available, native

pytestmark = pytest.mark.skipif(not available(), reason="kernels are not compiled here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["crown", "fast-lin", "crown-ibp", "dual", "alpha{steps=3}"])
def test_margins(method: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = iv.compile(DIGITS_NETWORK)
    images = torch.from_numpy(digits("test").images[:6]).reshape(-1, *graph.inputs[0].type.shape)
    labels = torch.from_numpy(digits("test").labels[:6])
    region = iv.Linf(images.to(dtype), 0.03, clip=(0, 1))
    found = iv.margins(convert(graph, dtype), region, labels, method)
    monkeypatch.setattr(native, "native", None)
    assert not available()
    near = 2e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(found, iv.margins(convert(graph, dtype), region, labels, method), rtol=near, atol=near)


@pytest.mark.parametrize("loss", ["crown-ibp", "singleprop", "fast-lin", "dual", "projections"])
def test_gradients(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 9, 20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip
    x, labels = torch.rand(5, 1, 12, 12), torch.arange(5) % 4
    bound = BoundGraph(module, x[:1], "crown-ibp")

    def gradients() -> list[torch.Tensor]:
        if loss == "crown-ibp":
            found = losses.crown_ibp(bound, x, labels, 0.05, 0.5, 0.5)
        elif loss in ("dual", "projections"):
            drawn = losses.Projections(8, torch.Generator().manual_seed(1)) if loss == "projections" else None
            found = losses.dual(bound.graph, x, labels, 0.05, projections=drawn)
        else:
            found = losses.singleprop(bound.graph, x, labels, 0.05, lines="fast-lin" if loss == "fast-lin" else "zero")
        return list(torch.autograd.grad(found, list(module.parameters())))

    found = gradients()
    monkeypatch.setattr(native, "native", None)
    for mine, plain in zip(found, gradients(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4)


def test_turned_off_by_the_environment() -> None:
    program = "import irverify.kernels as k; print(k.available())"
    for value, expected in (("0", "False"), ("1", "True")):
        given = {**os.environ, native.OFF: value}
        done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected

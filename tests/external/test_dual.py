"""Dual bounds of public networks: the count of a separate implementation, and fast-lin's values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import irverify as iv
from irverify.ir.graph import convert

NETWORKS = ("networks/wk17a.onnx", "vnncomp/cifar10_resnet/onnx/resnet_2b.onnx")


def test_certified_images(shared_data: Path) -> None:
    """94 of the first 100 MNIST images, as straight-line code for this one network finds (9,438 of all 10,000)."""
    images = iv.load_dataset(f"mnist:{shared_data / 'mnist'}").select(range(100))
    labels = torch.from_numpy(images.labels)
    graph = iv.compile(shared_data / "networks" / "wk17a.onnx")
    region = iv.Linf(torch.from_numpy(images.images), 0.1, clip=(0, 1))
    margins = iv.margins(graph, region, labels, method="dual")
    assert int(((margins > 0) | (torch.arange(10) == labels[:, None])).all(1).sum()) == 94


@pytest.mark.parametrize("file", NETWORKS)
def test_equals_fast_lin(shared_data: Path, file: str) -> None:
    path = next((path for path in (shared_data / file, shared_data / f"{file}.gz") if path.is_file()), None)
    if path is None:
        pytest.skip(f"needs {file}")
    graph = convert(iv.compile(path), torch.float64)
    center = torch.rand(2, *graph.inputs[0].type.shape, generator=torch.Generator().manual_seed(0)).double()
    for batch in (1, 2):
        region = iv.Box(center[:batch] - 0.003, center[:batch] + 0.003)
        dual, fast_lin = (iv.margins(graph, region, 3, method=method) for method in ("dual", "fast-lin"))
        torch.testing.assert_close(dual, fast_lin, rtol=1e-9, atol=1e-9)

"""Improved intervals and forward bounds on public networks: samples inside, never looser than intervals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import irverify as iv
from irverify.pipeline import run

NETWORKS = {
    "acasxu/onnx/ACASXU_run2a_1_1_batch_2000.onnx": 0.02,
    "mnistfc/onnx/mnist-net_256x2.onnx.gz": 0.01,
    "cifar10_resnet/onnx/resnet_2b.onnx.gz": 1 / 255,
    "verivital/onnx/Convnet_avgpool.onnx.gz": 0.01,
    "verivital/onnx/Convnet_maxpool.onnx.gz": 0.01,
    "eran/onnx/ffnnSIGMOID__Point_6x200.onnx.gz": 0.01,
}


@pytest.mark.parametrize("analysis", ["improved-interval", "forward"])
@pytest.mark.parametrize("network", NETWORKS)
def test_samples_lie_inside(shared_data: Path, network: str, analysis: str) -> None:
    graph = iv.compile(shared_data / "vnncomp" / network)
    (node,) = graph.inputs
    generator = torch.Generator().manual_seed(0)
    center = torch.rand(2, *node.type.shape, generator=generator, dtype=torch.float64) - 0.5 * (node.type.size == 5)
    region = iv.Linf(center.to(node.type.dtype), NETWORKS[network])
    bounds, plain = run(graph, analysis, region).bounds, run(graph, "ibp", region).bounds
    allowed = {
        name: 1e-4 * max(1.0, float(torch.stack([entry.lower, entry.upper]).abs().max()))
        for name, entry in plain.items()
    }
    for name, entry in bounds.items():
        assert bool((entry.lower >= plain[name].lower - allowed[name]).all()), name
        assert bool((entry.upper <= plain[name].upper + allowed[name]).all()), name
    assert max(float((plain[name].width - entry.width).max()) for name, entry in bounds.items()) > 0
    for inputs in region.sample(4, generator):
        for name, value in graph.values({node.name: inputs}).items():
            lower, upper = bounds[name].lower - allowed[name], bounds[name].upper + allowed[name]
            assert bool(((lower <= value) & (value <= upper)).all()), name

"""Backward rows where the network is affine, so that their bounds have to be the exact range."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Add, Conv, Relu, Reshape
from irverify.ir.types import TensorType
from irverify.pipeline import run
from irverify.regions import Box


def random_conv(kernel: int, channels: int, seed: int) -> Conv:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator, dtype=torch.float64)
    return Conv(weight, None, (2, 2), ((0, 0), (0, 0)), (1, 1), 1)


def assert_exact(graph: Graph, region: Box) -> None:
    """The bounds of an affine graph with one input and one output are its range."""

    def output(x: Tensor) -> Tensor:
        result = graph.evaluate(x)
        assert isinstance(result, Tensor)
        return result

    center, radius = (region.upper + region.lower) / 2, (region.upper - region.lower) / 2
    slopes = torch.autograd.functional.jacobian(output, center).reshape(output(center).numel(), -1)
    middle, reach = output(center).reshape(-1), slopes.abs() @ radius.reshape(-1)
    bounds = run(graph, "crown", region).bounds[graph.outputs[0]]
    assert torch.allclose(bounds.lower.reshape(-1), middle - reach)
    assert torch.allclose(bounds.upper.reshape(-1), middle + reach)


def test_windows_that_meet_count_their_places_in_one_plane() -> None:
    """Two convolutions of x with windows that move by 2, one result [4, 2, 2], one [1, 4, 4], added as vectors."""
    builder = GraphBuilder()
    x = builder.add(Relu(), builder.input(TensorType((1, 8, 8), torch.float64)))
    parts = [
        builder.add(Reshape((16,)), builder.add(random_conv(kernel, channels, seed=kernel), x))
        for kernel, channels in ((6, 4), (2, 1))
    ]
    ones = torch.ones(1, 1, 8, 8).double()
    assert_exact(builder.graph([builder.add(Add(), *parts)]), Box(ones, 2 * ones))
